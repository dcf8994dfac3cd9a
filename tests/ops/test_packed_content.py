"""What is packed to be kept is what was hashed: in every layout, and while others write."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from kept_codebooks import check_on, latents_on
from search_cases import oracle
from torch import Tensor

from vqgan_fast import ops

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda codebook: codebook,
    "columns": lambda codebook: codebook.t().contiguous().t(),
    "part_of_columns": lambda codebook: torch.cat([codebook, codebook]).t().contiguous().t()[:1500],
    "part_of_rows": lambda codebook: torch.cat([codebook, codebook], 1)[:, : codebook.shape[1]],
    "elements_apart": lambda codebook: codebook.repeat_interleave(2, 1)[:, ::2],
    "half": lambda codebook: codebook.half(),
    "double": lambda codebook: codebook.double(),
    "double_columns": lambda codebook: codebook.double().t().contiguous().t(),
    "many_equal": lambda codebook: codebook[torch.randint(700, (1500,))],
    "equal_columns": lambda codebook: codebook[torch.arange(1500) % 700].t().contiguous().t(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("way", "k", "d"),
    [
        ("boxes", 1500, 3),
        ("boxes", 4096, 8),
        ("int16", 1500, 67),
        ("int16", 1500, 1030),
        ("int8", 1500, 66),
        ("int8", 1500, 1031),
        ("fp32", 1500, 16),
        ("fp32", 4096, 5),
    ],
)
def test_every_layout_is_kept(
    way: str, k: int, d: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is packed to be kept is compared with what was hashed, and must be found the same."""
    monkeypatch.setenv("VQGAN_FAST_SCREEN", way)
    torch.manual_seed(list(LAYOUTS).index(layout))  # nothing that another layout left is found
    codebook = LAYOUTS[layout](torch.randn(k, d))
    z = latents_on(codebook).float()
    expected = oracle(z, codebook)[0]
    ops.nearest_code_counters(reset=True)
    for _ in range(3):
        assert torch.equal(ops.nearest_code(z, codebook, return_distance=False), expected)
    assert ops.nearest_code_counters()["calls_cached"] == 1


@contextlib.contextmanager
def writing(codebook: Tensor, codes: slice, contents: list[Tensor]) -> Iterator[None]:
    """Another thread gives these codes one content after the other, all the time."""
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            for content in contents:
                codebook[codes] = content
                time.sleep(5e-4)  # a fraction of what packing takes

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stopped.set()
        writer.join()


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize(
    ("way", "d", "far"),
    [
        ("boxes", 8, 10.0),
        ("boxes", 5, 1e60),
        ("int16", 33, 10.0),
        ("int8", 33, 10.0),
        ("fp32", 16, 10.0),
    ],
)
@pytest.mark.parametrize("by_columns", [False, True], ids=["rows", "columns"])
def test_a_codebook_that_is_written_while_it_is_packed(
    way: str, d: int, far: float, by_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some codes are moved away and back again. Whatever was packed from a mixture must not be
    taken for the codebook as it is before and after."""
    monkeypatch.setenv("VQGAN_FAST_SCREEN", way)
    torch.set_num_threads(1)
    k, moved = 100000, slice(50000, 50064)
    codebook = torch.randn(k, d, dtype=torch.float64 if far > 1e30 else torch.float32)
    if by_columns:
        codebook = codebook.t().contiguous().t()
    here, away = codebook[moved].clone(), far * torch.randn_like(codebook[moved])
    z = here + 1e-3
    for _ in range(5):
        for tensor in (codebook, here, z):
            tensor.mul_(-1.01)  # a content that was not met before
        with writing(codebook, moved, [away, here]):
            for _ in range(6):
                ops.nearest_code(z, codebook)
        check_on(z, codebook, calls=3)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize(("way", "d"), [("boxes", 8), ("int16", 33), ("int8", 33), ("fp32", 16)])
@pytest.mark.parametrize("by_columns", [False, True], ids=["rows", "columns"])
def test_equal_codes_that_are_written_while_they_are_packed(
    way: str, d: int, by_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some codes equal others now and others then. None may be left out for one that it equals in a
    mixture alone."""
    monkeypatch.setenv("VQGAN_FAST_SCREEN", way)
    torch.set_num_threads(1)
    k, moved = 40000, slice(0, 64)
    codebook = torch.randn(k // 4, d)[torch.randint(k // 4, (k,))]
    contents = [codebook[k // 2 : k // 2 + 64].clone(), codebook[moved].clone()]
    if by_columns:
        codebook = codebook.t().contiguous().t()
    z = torch.cat(contents) + 1e-3
    for _ in range(6):
        for tensor in (codebook, *contents, z):
            tensor.mul_(-1.01)  # a content that was not met before
        with writing(codebook, moved, contents):
            for _ in range(6):
                ops.nearest_code(z, codebook)
        for content in contents:
            codebook[moved] = content
            check_on(z, codebook, calls=3)


@pytest.mark.parametrize("by_columns", [False, True], ids=["rows", "columns"])
def test_every_part_of_a_large_codebook_is_content(
    by_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.2 MB: more blocks than one sum of sums takes up, and a last one that is not full."""
    monkeypatch.setenv("VQGAN_FAST_SCREEN", "boxes")
    k = 100000
    codebook = torch.randn(k, 8)
    if by_columns:
        codebook = codebook.t().contiguous().t()
    codes = torch.linspace(0, k - 1, 40).long()
    z = codebook[codes].clone()
    for _ in range(3):  # packed, kept, found
        assert torch.equal(ops.nearest_code(z, codebook, return_distance=False), codes)
    for code, row in zip(codes, z, strict=True):
        codebook[code] += 1.0
        assert ops.nearest_code(row[None], codebook, return_distance=False) != code
        codebook[code] = row
    assert torch.equal(ops.nearest_code(z, codebook, return_distance=False), codes)


def test_rows_and_columns_of_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block each: as many elements as a tile of columns has."""
    monkeypatch.setenv("VQGAN_FAST_SCREEN", "fp32")
    numbers = torch.randn(1024)
    rows, columns = numbers.view(64, 16), numbers.view(16, 64).t()
    z = latents_on(torch.cat([rows, columns]))
    for _ in range(3):
        for codebook in (rows, columns):
            check_on(z, codebook, calls=1)
