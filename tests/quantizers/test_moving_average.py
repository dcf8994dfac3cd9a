"""The moving-average codebook: its formula, dead codes, resuming, two ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from latent_noise import latents
from ranks import run_on_two_ranks
from torch import nn
from torch.nn import functional as F

from vqgan_fast.quantizers import EMAVectorQuantizer
from vqgan_fast.quantizers.moving_average import update_averages
from vqgan_fast.quantizers.ranks import draw_rows, gather_rows, sum_over_ranks, world_size

K, D = 20, 4


def test_formula() -> None:
    quantizer = EMAVectorQuantizer(K, D, beta=0.3, decay=0.9, eps=1e-3)
    codes, size = quantizer.codebook.clone(), torch.ones(K)
    average = codes.clone()
    for i in range(4):
        z = latents(2, D, 3, 5, seed=i)
        z_q, loss, info = quantizer(z)
        rows = z.movedim(1, -1).reshape(-1, D)
        one_hot = F.one_hot((rows[:, None] - codes).square().sum(2).argmin(1), K).float()
        assert torch.equal(one_hot.argmax(1), info.indices.flatten())
        torch.testing.assert_close(z_q.movedim(1, -1).reshape(-1, D), one_hot @ codes)
        torch.testing.assert_close(loss, 0.3 * (rows - one_hot @ codes).square().mean())
        size = 0.9 * size + 0.1 * one_hot.sum(0)
        average = 0.9 * average + 0.1 * one_hot.T @ rows
        total = size.sum()
        codes = average / ((size + 1e-3) / (total + K * 1e-3) * total)[:, None]
        torch.testing.assert_close(quantizer.codebook, codes)
    assert quantizer.updates == 4


def test_the_gradient_is_that_of_the_codes_compared_with() -> None:
    quantizer = EMAVectorQuantizer(K, D, beta=1.0)
    z = latents(1, D, 3, 3).requires_grad_()
    before = quantizer.codebook.clone()
    _, loss, info = quantizer(z)
    loss.backward()
    expected = 2 / z.numel() * (z - before[info.indices].movedim(-1, 1))
    torch.testing.assert_close(z.grad, expected.detach())
    assert not torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_latents_that_are_not_finite_take_no_part(bad: float) -> None:
    z = latents(2, D, 3, 3)
    poisoned = z.clone()
    poisoned[1, 2, 0, 1] = bad
    torch.manual_seed(0)
    quantizer = EMAVectorQuantizer(K, D, decay=0.5)
    rest = copy.deepcopy(quantizer)
    _, loss, _ = quantizer(poisoned)
    assert loss.isnan()  # it is not hidden
    rows = z.movedim(1, -1).reshape(-1, D)
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[9 + 1] = False
    rest(rows[kept].T.reshape(1, D, -1, 1))
    for name, value in rest.state_dict().items():
        torch.testing.assert_close(quantizer.state_dict()[name], value)


@pytest.mark.parametrize("num_rows", [0, 3])
def test_averages_that_hold_nothing_move_no_code(num_rows: int) -> None:
    quantizer = EMAVectorQuantizer(K, D, decay=0.0)
    before = quantizer.codebook.clone()
    quantizer(torch.full((1, D, num_rows, 1), float("nan")))
    assert quantizer.cluster_size.sum() == 0
    assert torch.equal(quantizer.codebook, before)
    quantizer(latents(2, D, 3, 5))
    assert quantizer.codebook.isfinite().all()
    assert not torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_averages_stay_in_fp32(half: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = EMAVectorQuantizer(K, D)
    with torch.no_grad():
        plain.embedding.weight.copy_(plain.embedding.weight.to(half))
    module = nn.Sequential(copy.deepcopy(plain)).to(half)
    quantizer = module[0]
    assert quantizer.codebook.dtype == half
    assert quantizer.cluster_size.dtype == quantizer.embed_avg.dtype == torch.float32
    z = latents(1, D, 16, 16).to(half)
    for _ in range(20):
        _, _, info = quantizer(z)
        update_averages(
            plain.codebook, plain.cluster_size, plain.embed_avg,
            z.movedim(1, -1), info.indices, 0.99, 1e-5,
        )  # fmt: skip
    for name in ("cluster_size", "embed_avg"):
        assert torch.equal(getattr(quantizer, name), getattr(plain, name))
    assert torch.equal(quantizer.codebook, plain.codebook.to(half))
    assert module.double()[0].cluster_size.dtype == torch.float64
    assert module.to("meta")[0].embed_avg.is_meta


def test_no_update_in_eval_mode() -> None:
    quantizer = EMAVectorQuantizer(K, D).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents(1, D, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_dead_codes_move_onto_latents() -> None:
    torch.manual_seed(0)
    quantizer = EMAVectorQuantizer(K, D, decay=0.5, restart_below=0.3)
    quantizer.codebook[10:] += 1000  # never chosen
    quantizer.embed_avg.copy_(quantizer.codebook)
    z = latents(4, D, 8, 8)
    for _ in range(2):  # sizes 1, 0.5, 0.25
        quantizer(z)
    rows = z.movedim(1, -1).reshape(-1, D)
    moved = (quantizer.codebook[:, None] == rows).all(2).any(1)
    assert moved[10:].all()
    assert torch.equal(quantizer.cluster_size[10:], torch.full((10,), 0.3))
    used = quantizer(z)[2].counts
    assert (used[10:] > 0).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_dead_codes_move_in_half_precision(half: torch.dtype) -> None:
    """The averages are wider than the codes, and their quotient stays the code."""
    torch.manual_seed(0)
    quantizer = EMAVectorQuantizer(K, D, decay=0.5, restart_below=0.3).to(half)
    quantizer.codebook[10:] += 1000  # never chosen
    quantizer.embed_avg.copy_(quantizer.codebook)
    z = latents(4, D, 8, 8).to(half)
    for _ in range(2):
        quantizer(z)
    assert (quantizer.codebook[10:].abs() < 100).all()
    quotient = quantizer.embed_avg / quantizer.cluster_size[:, None]
    torch.testing.assert_close(quotient[10:], quantizer.codebook[10:].float())
    assert quantizer.embed_avg.dtype == torch.float32


def test_a_codebook_that_asks_for_a_gradient_gets_none() -> None:
    """As after `requires_grad_()` of a whole model: the update is in place, and no graph minds."""
    quantizer = EMAVectorQuantizer(K, D).requires_grad_()
    scale = torch.ones((), requires_grad=True)
    for z in (latents(1, D, 3, 3), latents(1, D, 3, 3) * scale):
        z_q, loss, _ = quantizer(z)
        (scale * (z_q.sum() + loss)).backward()
    assert quantizer.codebook.grad is None


def test_a_resumed_run_goes_on_alike() -> None:
    first = EMAVectorQuantizer(K, D, decay=0.5, restart_below=0.4)
    first(latents(1, D, 4, 4))
    second = EMAVectorQuantizer(K, D, decay=0.5, restart_below=0.4)
    second.load_state_dict(first.state_dict())
    for i in range(5):
        for quantizer in (first, second):
            torch.rand(i)  # the global generator has no part in it
            quantizer(latents(1, D, 4, 4, seed=i))
    assert torch.equal(first.codebook, second.codebook)


def on_rank(rank: int, folder: Path) -> None:
    assert world_size() == 2
    for size in (1, 2, 7):  # of which some do not divide by the number of ranks
        whole = latents(2, size, seed=size)
        assert torch.equal(sum_over_ranks(whole[rank]), (whole[0].double() + whole[1]).float())
        counts = torch.arange(size) + rank
        assert torch.equal(sum_over_ranks(counts), 2 * torch.arange(size) + 1)
    rows = latents(4, 3, seed=1)
    assert torch.equal(gather_rows(rows[2 * rank : 2 * rank + 2]), rows)
    for dtype in (torch.float32, torch.bfloat16):
        rows = latents(7, D, seed=2).to(dtype)
        rows[3, 0] = torch.nan
        for first, count in ((4, 5), (0, 9), (7, 1)):
            drawn = [
                draw_rows(some, count, torch.Generator().manual_seed(4))
                for some in (rows[:first] if rank == 0 else rows[first:], rows[:0])
            ]
            order = torch.randperm(7, generator=torch.Generator().manual_seed(4))
            torch.testing.assert_close(
                drawn[0], rows[order[:count]], rtol=0, atol=0, equal_nan=True
            )
            assert drawn[1].shape == (0, D)
    quantizer = train(lambda images: images[:1] if rank == 0 else images[1:])
    torch.save(quantizer.state_dict(), folder / f"{rank}.pt")


def train(share: Callable[[torch.Tensor], torch.Tensor]) -> EMAVectorQuantizer:
    """A quantizer after batches of which it gets its share; codes are restarted at each."""
    torch.manual_seed(0)
    quantizer = EMAVectorQuantizer(K, D, decay=0.5, restart_below=0.3)
    for size in (3, 3, 3, 3, 1, 1):  # of one image, a rank has none
        images = latents(size, D, 5, 6, seed=int(quantizer.updates))
        quantizer(share(images))
    return quantizer


def test_two_ranks(tmp_path: Path) -> None:
    run_on_two_ranks(on_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name, value in train(lambda images: images).state_dict().items():  # restarts included
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)
    assert first["updates"] == 6


def test_one_rank() -> None:
    assert world_size() == 1
    value = latents(3)
    assert sum_over_ranks(value) is value
    assert gather_rows(value) is value


@pytest.mark.parametrize("count", [3, 100])
def test_draws_of_few_and_of_many_rows(count: int) -> None:
    rows = latents(count, D)
    drawn = draw_rows(rows, K, torch.Generator().manual_seed(0))
    assert drawn.shape == (min(count, K), D)
    assert (drawn[:, None] == rows).all(2).any(1).all()
    assert len(drawn.unique(dim=0)) == len(drawn)
