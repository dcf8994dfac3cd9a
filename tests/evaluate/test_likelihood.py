"""The likelihood of codes, whatever mode and dtype the model is in."""

from __future__ import annotations

import pytest
import torch
from tiny_vqgan import tiny_vqgan
from torch.nn import functional as F

from vqgan_fast import GPT, LatentTransformer
from vqgan_fast.evaluate import nll_per_code
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.conditions import SOSCondition


def make(dtype: torch.dtype, dropout: float = 0.0) -> LatentTransformer:
    torch.manual_seed(0)
    gpt = GPT(16, 17, n_layer=1, n_head=2, n_embd=8, resid_pdrop=dropout)
    torch.nn.init.normal_(gpt.head.weight)
    return LatentTransformer(tiny_vqgan(resolution=16), SOSCondition(), gpt.to(dtype)).eval()


CODES = torch.randint(16, (6, 4, 4), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_that_of_the_logits_in_fp64(dtype: torch.dtype) -> None:
    model = make(dtype)
    with torch.no_grad():
        logits = code_logits(model.transformer, torch.zeros(6, 1, dtype=torch.long), CODES)
    assert logits.dtype == dtype
    expected = F.cross_entropy(logits.flatten(0, 1).double(), CODES.flatten())
    assert nll_per_code(model, CODES) == pytest.approx(float(expected), rel=1e-6)


def test_a_model_in_training_is_measured_without_dropout_and_stays_in_training() -> None:
    model = make(torch.float32, dropout=0.5)
    expected = nll_per_code(model, CODES)
    model.train()
    before = [part.training for part in model.modules()]
    assert nll_per_code(model, CODES) == expected
    assert [part.training for part in model.modules()] == before
    assert model.transformer.training


def test_too_many_codes_beside_a_condition_on_the_grid() -> None:
    model, condition = make(torch.float32), torch.zeros(6, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must have at most 9 codes, .* trained on, got 4 x 4"):
        nll_per_code(model, CODES, condition=condition)
