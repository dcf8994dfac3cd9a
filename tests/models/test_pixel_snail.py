"""PixelSNAIL: causal, cell for cell; a drop-in for a GPT over the same codes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vqgan_fast.models import PixelSNAIL
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.latent_transformer import load_transformer
from vqgan_fast.models.pixel_snail import CausalConv

COND = torch.zeros(1, 1, dtype=torch.int64)


def tiny(seed: int = 0, **options: object) -> PixelSNAIL:
    """In fp64 and eval mode, with weights wild enough that everything that may matter does."""
    torch.manual_seed(seed)
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_res": 1, **options}
    model = PixelSNAIL(12, **arguments).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


@pytest.mark.parametrize("size", [(5, 6), (1, 4), (4, 1)])
def test_a_code_moves_the_logits_of_all_later_cells_and_of_no_others(size):
    """By perturbation of each code in turn: attention reaches every later cell."""
    model = tiny()
    codes = torch.randint(12, (1, *size), generator=torch.Generator().manual_seed(1))
    before = model(codes, COND)
    number = codes.numel()
    for cell in range(number):
        changed = codes.clone()
        changed.view(-1)[cell] = (codes.view(-1)[cell] + 5) % 12
        moved = (model(changed, COND) - before).abs().amax((0, 2)) > 1e-9
        assert torch.equal(moved, torch.arange(number) > cell)


@pytest.mark.parametrize("strict", [True, False])
def test_what_a_causal_convolution_sees(strict):
    """By gradient, in the middle of a grid: the rows above, and the left of its own row."""
    conv = CausalConv(1, 1, 5, strict=strict).double()
    for parameter in conv.parameters():
        torch.nn.init.ones_(parameter)
    x = torch.zeros(1, 1, 7, 7, dtype=torch.float64, requires_grad=True)
    conv(x)[0, 0, 3, 3].backward()
    expected = torch.zeros(7, 7, dtype=torch.float64)
    expected[1:3, 1:6] = 1
    expected[3, 1 : 3 if strict else 4] = 1
    assert torch.equal(x.grad[0, 0], expected)


def test_conditions_move_every_cell():
    model, codes = tiny(), torch.randint(12, (1, 3, 4))
    moved = model(codes, COND + 3) - model(codes, COND)
    assert (moved.abs().amax((0, 2)) > 1e-9).all()
    spatial = torch.zeros(1, 3, 4, dtype=torch.int64)
    torch.testing.assert_close(model(codes, spatial), model(codes, COND))
    with pytest.raises(ValueError, match=r"cond must be \(1, 1\) or \(1, 3, 4\) .* a PixelSNAIL"):
        model(codes, torch.zeros(1, 2, dtype=torch.int64))


def test_it_learns_what_the_code_before_says():
    """A sequence in which each code is its predecessor plus one is certain but for the first."""
    torch.manual_seed(0)
    model = PixelSNAIL(8, n_layer=1, n_head=2, n_embd=32, n_res=1)
    optimizer = torch.optim.AdamW(model.decay_groups(0.01), 3e-3)
    steps = torch.arange(16).view(1, 4, 4)
    for _ in range(60):
        codes = (torch.randint(8, (16, 1, 1)) + steps) % 8
        logits = code_logits(model, torch.zeros(16, 1, dtype=torch.int64), codes)
        nll = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
    assert nll < 0.35, "the first of 16 codes alone costs log(8) / 16 = 0.13"


def test_it_is_saved_and_found_by_its_name(tmp_path):
    model = tiny().float()
    model.save_pretrained(tmp_path)
    loaded = load_transformer(tmp_path)
    codes = torch.randint(12, (2, 4, 4))
    cond = torch.zeros(2, 1, dtype=torch.int64)
    assert isinstance(loaded, PixelSNAIL)
    assert torch.equal(loaded(codes, cond), model(codes, cond))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd and at least 5, got 4"),
        ({"n_head": 3}, "n_embd must be a multiple of n_head = 3"),
        ({"n_layer": 0}, "n_layer must be at least 1"),
        ({"kernel_size": 5.5}, r"kernel_size must be an integer, got 5\.5"),
        ({"resid_pdrop": None}, "resid_pdrop must be a finite number, got None"),
        ({"resid_pdrop": 1.0}, r"resid_pdrop must lie in \[0, 1\)"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match=r"codes must be a torch\.Tensor, got builtins\.list"):
        tiny()([[[1]]], COND)
    with pytest.raises(TypeError, match=r"cond must be a torch\.Tensor, got builtins\.list"):
        tiny()(torch.zeros(1, 3, 4).long(), [[0]])
