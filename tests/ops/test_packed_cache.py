"""A codebook is packed once and kept while it stays as it is: whatever writes to it, and however,
the next call must see what is there.

Each test calls often enough on one content that a packed copy of it would be kept and in use, and
its latents lie on the codes, so that an index from an older content is a wrong one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from kept_codebooks import ROWS, check, check_on, latents_on
from search_cases import oracle
from torch import Tensor, nn

from vqgan_fast import ops
from vqgan_fast.numpy import nearest_code as nearest_code_numpy

# Few and many dimensions and codes, so that every kind of packed codebook is met.
SIZES = [(700, 8), (5000, 4), (600, 32), (300, 67)]


def in_place(codebook: Tensor) -> None:
    codebook.mul_(-1.5)


def one_element(codebook: Tensor) -> None:
    codebook[len(codebook) // 2, -1] += 50.0


def one_bit(codebook: Tensor) -> None:
    """The highest of an exponent, in the last code: a number below 1 becomes huge."""
    codebook[-1, -1] = 0.3
    codebook.view(torch.int32)[-1, -1] ^= 1 << 30


def swapped_rows(codebook: Tensor) -> None:
    codebook[[0, -1]] = codebook[[-1, 0]]


def data_copy(codebook: Tensor) -> None:
    """Leaves torch's version counter where it was, as loading weights and swapping an EMA do."""
    version = codebook._version
    codebook.data.copy_(torch.randn_like(codebook))
    assert codebook._version == version


def data_assigned(codebook: Tensor) -> None:
    codebook.data = torch.randn_like(codebook)


def through_a_view(codebook: Tensor) -> None:
    codebook.view(-1)[::3].neg_()


def through_a_detached_alias(codebook: Tensor) -> None:
    codebook.detach().t().copy_(torch.randn(codebook.shape[::-1]))


def through_numpy(codebook: Tensor) -> None:
    """Memory shared with an array: torch sees nothing of the change."""
    version = codebook._version
    codebook.numpy()[:] = np.random.default_rng(0).standard_normal(codebook.shape)
    assert codebook._version == version


def through_dlpack(codebook: Tensor) -> None:
    torch.from_dlpack(codebook)[1::2] *= -2.0


def through_storage(codebook: Tensor) -> None:
    words = torch.empty(0, dtype=torch.int32).set_(codebook.untyped_storage())
    words[words.numel() // 3] ^= 1 << 30


ROUTES: list[Callable[[Tensor], None]] = [
    in_place,
    one_element,
    one_bit,
    swapped_rows,
    data_copy,
    data_assigned,
    through_a_view,
    through_a_detached_alias,
    through_numpy,
    through_dlpack,
    through_storage,
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
@pytest.mark.parametrize(("k", "d"), SIZES)
def test_a_changed_codebook_is_seen(route: Callable[[Tensor], None], k: int, d: int) -> None:
    codebook = torch.randn(k, d)
    check(codebook)
    before = codebook.clone()
    route(codebook)
    assert not torch.equal(codebook, before)
    check_on(torch.cat([latents_on(before), latents_on(codebook)]), codebook, calls=4)
    codebook.data.copy_(before)  # what was kept for it may be found again
    check(codebook)


@pytest.mark.parametrize(("k", "d"), SIZES)
def test_the_answer_for_old_latents_changes_with_the_codebook(k: int, d: int) -> None:
    """The same latents, and the codes in another order: every index must follow."""
    codebook = torch.randn(k, d)
    z = codebook + 1e-3 * torch.randn(k, d)
    for _ in range(4):
        assert torch.equal(ops.nearest_code(z, codebook, return_distance=False), torch.arange(k))
    order = torch.randperm(k)
    codebook.data.copy_(codebook[order].clone())
    for _ in range(4):
        found = ops.nearest_code(z, codebook, return_distance=False)
        assert torch.equal(found, order.argsort())


def test_loaded_weights() -> None:
    embedding = nn.Embedding(700, 8)
    check(embedding.weight)
    embedding.load_state_dict({"weight": torch.randn(700, 8)})
    check(embedding.weight)
    embedding.load_state_dict({"weight": torch.randn(700, 8)}, assign=True)
    check(embedding.weight)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_steps_of_an_optimizer(optimizer: type[torch.optim.Optimizer]) -> None:
    codebook = nn.Parameter(torch.randn(500, 8))
    steps = optimizer([codebook], lr=0.3)
    for _ in range(4):
        z = latents_on(codebook)
        _, indices, _, codebook_loss = ops.vector_quantize(z, codebook)
        check_on(z, codebook, calls=1)
        assert torch.equal(indices, ops.nearest_code(z, codebook, return_distance=False))
        codebook_loss.backward()
        steps.step()
        steps.zero_grad()
    check(codebook)


def test_an_ema_swapped_in_and_out() -> None:
    codebook = nn.Parameter(torch.randn(600, 32))
    ema = torch.randn(600, 32)
    for _ in range(3):
        check(codebook)
        training, codebook.data = codebook.data, ema
        check(codebook)
        codebook.data = training


def test_another_codebook_at_the_same_address() -> None:
    seen = set()
    for _ in range(6):
        codebook = torch.randn(700, 8)
        seen.add(codebook.data_ptr())
        check(codebook)
        del codebook
        gc.collect()
    memory = torch.empty(2 * 700 * 8)
    for _ in range(4):
        codebook = memory[:5600].view(700, 8).normal_()
        check(codebook)
        del codebook
    # The same bytes as other rows, at the same address.
    check(memory.normal_().view(1400, 8))
    check(memory.view(2800, 4))
    check(memory.view(8, 1400).t())


def test_types_and_layouts_of_the_same_bytes() -> None:
    words = torch.randn(600, 32).half().view(torch.int16)
    # Every exponent below the highest: finite as float16, bfloat16 and in pairs as float32.
    words &= 0x3FFF
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        codebook = words.view(dtype)
        check(codebook)
    square = torch.randn(256, 256)
    for codebook in (square, square.t(), square.flip(0), square[::2], square[:, ::2]):
        check(codebook)


def test_signed_zeros_and_nans_are_content_too() -> None:
    codebook = torch.randn(500, 8)
    codebook[7] = 0.0
    check(codebook)
    codebook[7] = -0.0
    check(codebook)
    codebook[3, 1] = torch.nan
    z = torch.randn(ROWS, 8)
    check_on(z, codebook, calls=4)
    codebook[3, 1] = torch.inf
    check_on(z, codebook, calls=4)


def test_numpy_arrays_too() -> None:
    codebook = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
    for _ in range(3):
        for _ in range(4):
            found, _ = nearest_code_numpy(codebook, codebook)
            np.testing.assert_array_equal(found, np.arange(700))
        codebook[...] = codebook[np.random.default_rng(1).permutation(700)]


def test_heads_have_each_their_own() -> None:
    codebook = torch.randn(6, 300, 8)
    z = codebook + 1e-3 * torch.randn_like(codebook)
    for _ in range(4):
        found = ops.nearest_code(z, codebook, return_distance=False)
        assert torch.equal(found, torch.arange(300).expand(6, 300))
        codebook.data.copy_(codebook.roll(1, 0))
        z.data.copy_(z.roll(1, 0))


def test_more_codebooks_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One megabyte holds a few of these: those that went come back right."""
    monkeypatch.setenv("VQGAN_FAST_CACHE_MB", "1")
    codebooks = [torch.randn(4000, 8) for _ in range(6)]
    for _ in range(3):
        for codebook in codebooks:
            check(codebook[:2000], calls=2)
            check(codebook, calls=2)


def test_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by the calls that find a packed codebook: a megabyte holds three of these, not four."""
    monkeypatch.setenv("VQGAN_FAST_SCREEN", "fp32")
    monkeypatch.setenv("VQGAN_FAST_CACHE_MB", "1")
    codebooks = [torch.randn(9000, 8) for _ in range(4)]
    latents = [latents_on(codebook) for codebook in codebooks]
    expected = [oracle(*pair)[0] for pair in zip(latents, codebooks, strict=True)]

    def found(order: list[int]) -> int:
        ops.nearest_code_counters(reset=True)
        for i in order:
            indices = ops.nearest_code(latents[i], codebooks[i], return_distance=False)
            assert torch.equal(indices, expected[i])
        return ops.nearest_code_counters()["calls_cached"]

    assert found([0, 0, 1, 1, 2, 2, 3, 3]) == 0  # met, kept
    assert found([3, 2, 1]) == 3
    assert found([0]) == 0
    assert found([0, 1, 2, 1]) == 4
    assert found([3]) == 0
    assert found([1, 2]) == 2  # what a call found was used: the other one had to go
    assert found([0, 1, 2, 3] * 3) <= 2


def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    z, codebook = torch.randn(ROWS, 8), torch.randn(700, 8)
    for text in ("-1", "many", "1.5", "99999999999999"):
        monkeypatch.setenv("VQGAN_FAST_CACHE_MB", text)
        message = rf"VQGAN_FAST_CACHE_MB must be a whole number of .*, got {text}$"
        with pytest.raises(RuntimeError, match=message):
            ops.nearest_code(z, codebook)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_of_fork_goes_on() -> None:
    """With what its parent had packed, and with what it packs itself."""
    torch.set_num_threads(1)  # torch's own threads do not outlive a fork
    codebooks = [torch.randn(700, 8) for _ in range(2)]
    check(codebooks[0])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for codebook in codebooks:
                check(codebook)
            codebooks[0].neg_()
            check(codebooks[0])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    check(codebooks[0])


@pytest.mark.parametrize("megabytes", ["0", "1", ""])
def test_every_limit_gives_the_same(megabytes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQGAN_FAST_CACHE_MB", megabytes)
    for k, d in SIZES:
        check(torch.randn(k, d))


@pytest.mark.usefixtures("restore_threads")
def test_threads_of_the_caller() -> None:
    """Some search what others have packed, while still others bring new codebooks."""
    torch.set_num_threads(1)
    shared = [torch.randn(400, 8) for _ in range(4)]
    latents = [codebook + 1e-3 for codebook in shared]

    def search(worker: int) -> bool:
        right = True
        for i in range(24):
            own = torch.full((1, 8), float(worker)) + shared[i % 4]
            for z, codebook in ((latents[i % 4], shared[i % 4]), (own, own)):
                found = ops.nearest_code(z, codebook, return_distance=False)
                right = right and torch.equal(found, torch.arange(400))
        return right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(search, range(4)))
