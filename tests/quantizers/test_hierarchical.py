"""Two levels of codes: what they look like, which depends on which, and how dead codes return."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast import VQGAN
from vqgan_fast.quantizers import HierarchicalQuantizer
from vqgan_fast.train.codebook_monitor import CodebookMonitor
from vqgan_fast.train.config import CodebookConfig
from vqgan_fast.train.distributed import Ranks

K, D = 30, 6


@pytest.fixture
def quantizer() -> HierarchicalQuantizer:
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(K, D, channels=8, num_res_blocks=1).eval()
    for codebook in quantizer.codebooks():
        codebook.data.normal_(std=0.3)
    return quantizer


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (1, 1)])
def test_levels_indices_and_counts(quantizer, height, width):
    z = torch.randn(2, D, height, width)
    z_q, loss, info = quantizer(z)
    upper, lower = quantizer.levels(info.indices)
    assert upper.shape == (2, -(-height // 2), -(-width // 2))
    assert lower.shape == (2, height, width)
    assert torch.equal(quantizer.indices_of(upper, lower), info.indices)
    assert torch.equal(quantizer.encode(z), info.indices)
    torch.testing.assert_close(quantizer.lookup(info.indices), z_q)
    assert z_q.shape == z.shape
    counts = [codes.flatten().bincount(minlength=K) for codes in (upper, lower)]
    assert torch.equal(info.counts, torch.cat(counts))
    assert info.counts.shape == (quantizer.num_codes,) == (len(quantizer.codebook),)
    torch.testing.assert_close(loss, 0.25 * info.commitment_loss + info.codebook_loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_training_and_encoding_choose_the_same_codes(dtype):
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(512, 16, channels=32)
    for codebook in quantizer.codebooks():
        codebook.data.normal_(std=0.3)
    quantizer.to(dtype)
    z = torch.randn(8, 16, 32, 32, dtype=dtype)
    z_q, _, info = quantizer(z)
    assert torch.equal(info.indices, quantizer.encode(z))
    assert torch.equal(z_q, quantizer.lookup(info.indices))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_latents_of_another_type_than_the_weights(quantizer, dtype):
    z = torch.randn(2, D, 4, 6).to(dtype).requires_grad_()
    z_q, loss, info = quantizer(z)
    assert z_q.dtype == dtype and torch.equal(info.indices, quantizer.encode(z))
    (z_q.sum() + loss).backward()
    assert z.grad.dtype == dtype and z.grad.abs().sum() > 0
    assert all(len(latents) for latents in quantizer.codebook_latents(z))


def test_both_levels_reach_the_latents_around_them_only(quantizer):
    """An upper code moves what its cells look like and how lower codes are chosen; a lower code
    moves its own cell."""
    indices = quantizer.encode(torch.randn(1, D, 8, 8))
    upper, lower = quantizer.levels(indices)
    before = quantizer.lookup(indices)
    changed = lower.clone()
    changed[0, 3, 5] = (lower[0, 3, 5] + 1) % K
    moved = quantizer.lookup(quantizer.indices_of(upper, changed)) != before
    assert moved.any(1).nonzero().tolist() == [[0, 3, 5]]
    changed = upper.clone()
    changed[0, 1, 2] = (upper[0, 1, 2] + 1) % K
    moved = (quantizer.lookup(quantizer.indices_of(changed, lower)) != before).any(1)[0]
    rows, columns = moved.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 3, 6)


def test_gradients_reach_every_weight_and_the_latents(quantizer):
    z = torch.randn(2, D, 4, 4, requires_grad=True)
    z_q, loss, _ = quantizer(z)
    (z_q.square().sum() + loss).backward()
    assert z.grad.abs().sum() > 0
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_dead_codes_of_each_level_return_as_its_own_latents():
    torch.manual_seed(0)
    model = VQGAN(
        6, 4, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), resolution=8,
        z_channels=8, quantizer="hierarchical", quantizer_options={"channels": 8},
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model(x)[1].backward()
    optimizer.step()
    before = [codebook.detach().clone() for codebook in model.quantize.codebooks()]
    watch = CodebookMonitor(
        12, CodebookConfig(restart_dead_codes=True), 0, Ranks(0, 1, torch.device("cpu"))
    )
    watch.observe(0, torch.tensor([5, 0, 3, 1, 1, 1, 2, 2, 2, 0, 0, 2]))
    # What each level's own quantiser is given in a pass.
    latents = []
    for level in (model.quantize.upper, model.quantize.lower):
        level.register_forward_pre_hook(lambda _, given: latents.append(given[0].detach()))
    model(x)
    latents = [z.movedim(1, -1).flatten(0, -2) for z in latents]
    assert [len(z) for z in latents] == [2 * 4, 2 * 16]
    watch.restart(1, model, optimizer, None, [x])
    for level, dead in enumerate(([1], [3, 4])):
        codebook = model.quantize.codebooks()[level]
        alive = [code for code in range(6) if code not in dead]
        assert torch.equal(codebook[alive], before[level][alive])
        for row in codebook[dead]:
            assert (latents[level] - row).abs().sum(1).min() < 1e-5
        assert not optimizer.state[codebook]["exp_avg"][dead].any()
    assert watch.figures(1)[0]["restarted_codes"] == 3


def test_bad_input(quantizer):
    for shape in ((1, 2, 2), (1, 2, 2, 3)):
        with pytest.raises(ValueError, match=r"indices must be \(B, H, W, 2\), got"):
            quantizer.lookup(torch.zeros(shape, dtype=torch.int64))
    for name, value in (("channels", 0), ("num_res_blocks", -1)):
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            HierarchicalQuantizer(K, D, **{name: value})
