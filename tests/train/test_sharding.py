"""Activations computed twice, weights of the bits that they had."""

from __future__ import annotations

import pytest
import torch
from tiny import read_metrics, transformer_run, vqgan_run

from vqgan_fast.models import gpt, pixel_snail
from vqgan_fast.models.layers import ResnetBlock
from vqgan_fast.train import train

CHANGES = {"optim__steps": 2, "optim__ema_decay": 0.5}


@pytest.mark.parametrize(
    ("model", "block"),
    [("vqgan", ResnetBlock), ("gpt", gpt.Block), ("pixel_snail", pixel_snail.Block)],
)
def test_checkpointed_activations_change_no_bit(
    tmp_path, pictures, first_stage, monkeypatch, model, block
):
    calls = []
    forward = block.forward

    def counted(self, *arguments):
        calls.append(torch.is_grad_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(block, "forward", counted)
    counts = []
    for on in (False, True):
        changes = {**CHANGES, "optim__activation_checkpointing": on}
        folder = tmp_path / str(on)
        if model == "vqgan":
            train(vqgan_run(pictures, folder, model__dropout=0.1, **changes))
        else:
            changes |= {"gpt__resid_pdrop": 0.1, "data__train": str(pictures)}
            train(transformer_run(first_stage, folder, transformer=model, **changes))
        counts.append(sum(calls))
        calls.clear()
    assert read_metrics(tmp_path / "True") == read_metrics(tmp_path / "False")
    assert counts[1] == 2 * counts[0] > 0
