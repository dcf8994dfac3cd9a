"""PSNR of single pictures: one definition, wherever it is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vqgan_fast.losses import psnr_of_each
from vqgan_fast.report.measures import mean_psnr
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.evaluation import reconstruction_figures


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_picture_has_its_own_and_none_is_beyond_100_db(dtype: torch.dtype) -> None:
    errors = torch.tensor([1.0, 0.01, 1e-9, 1e-12, 0.0], dtype=dtype)
    assert psnr_of_each(errors).tolist() == pytest.approx([0, 20, 90, 100, 100])


class Reconstructing(torch.nn.Module):
    """Gives a picture back with `error` added."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error, self.quantize = error, SimpleNamespace(num_codes=4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, SimpleNamespace]:
        return x + self.error, None, SimpleNamespace(counts=torch.ones(4, dtype=torch.int64))


@pytest.mark.parametrize("error", [0.0, 0.02, 0.2])
def test_training_and_reports_tell_the_same(error: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 8, 8, generator=generator) - 0.5
    crops = SimpleNamespace(kind=None, held_out=x, model_input=lambda part, device: part)
    alone = Ranks(0, 1, torch.device("cpu"))
    figures = reconstruction_figures(Reconstructing(error), crops, 2, alone)
    assert figures["val_psnr"] == pytest.approx(mean_psnr(x, x + error), rel=1e-6)
    assert figures["val_l1"] == pytest.approx(error, abs=1e-6)
