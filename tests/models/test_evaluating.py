"""Eval mode for a while, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vqgan_fast.models import GPT
from vqgan_fast.models.evaluating import evaluating
from vqgan_fast.train import evaluation
from vqgan_fast.train.distributed import Ranks


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


@pytest.fixture
def gpt() -> GPT:
    """In training, but for a part that is frozen in eval mode."""
    model = GPT(16, 5, n_layer=2, n_head=2, n_embd=8, resid_pdrop=0.5).train()
    next(model.children()).eval()
    assert len(set(modes(model))) == 2
    return model


def test_each_part_is_in_its_own_mode_again(gpt: GPT) -> None:
    before = modes(gpt)
    with evaluating(gpt):
        assert not any(modes(gpt))
    assert modes(gpt) == before


def test_each_part_is_in_its_own_mode_again_after_an_error(gpt: GPT) -> None:
    before = modes(gpt)
    with pytest.raises(RuntimeError, match="out of memory"), evaluating(gpt):
        raise RuntimeError("out of memory")
    assert modes(gpt) == before


@pytest.mark.parametrize("failing", [False, True])
def test_training_measures_in_eval_mode_and_goes_on_as_before(
    gpt: GPT, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    def measured(model: GPT, *_: object) -> torch.Tensor:
        assert not any(modes(model))
        if failing:
            raise RuntimeError("out of memory")
        return torch.zeros(2, 4, 16)

    monkeypatch.setattr(evaluation, "code_logits", measured)
    before, cpu = modes(gpt), torch.device("cpu")
    condition, codes = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 2, 2, dtype=torch.long)
    for measure in (
        lambda: evaluation.held_out_nll(gpt, condition, codes, 2, Ranks(0, 1, cpu)),
        lambda: evaluation.predictions(gpt, condition, codes),
        lambda: _evaluated(gpt, cpu, measured),
    ):
        if failing:
            with pytest.raises(RuntimeError, match="out of memory"):
                measure()
        else:
            measure()
        assert modes(gpt) == before


def _evaluated(gpt: GPT, device: torch.device, measured) -> None:
    with evaluation.evaluating(gpt, device):
        measured(gpt)
