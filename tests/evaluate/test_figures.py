"""Figures of reconstructions and distances of distributions, against their definitions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from sample_pictures import pixels
from small_features import SMALL_FEATURES
from tiny_vqgan import tiny_vqgan

from vqgan_fast import VQGAN
from vqgan_fast.data import to_model_range
from vqgan_fast.evaluate import (
    MetricWeightsError,
    ReconstructionMeasures,
    distribution_metrics,
    inception_weights,
)
from vqgan_fast.losses import PerceptualLoss


def write_folder(folder: Path, numbers: range) -> Path:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(pixels(number, 16, 16)).save(folder / f"{number:03d}.png")
    return folder


def test_fid_is_that_of_the_library_called_by_hand(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", range(24))
    b = write_folder(tmp_path / "b", range(24, 60))
    ours = distribution_metrics(a, b, inception_score=True, extractor=SMALL_FEATURES)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(a), input2=str(b), fid=True, isc=True, cuda=False, cache=False,
        feature_extractor=SMALL_FEATURES, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    # The formula itself, for these features: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    stats = []
    for numbers in (range(24), range(24, 60)):
        images = np.stack([pixels(n, 16, 16) for n in numbers]).astype(np.float64)
        flat = images.reshape(len(images), -1, 3)
        features = np.concatenate([flat.mean(1), flat.std(1, ddof=1)], axis=1)
        stats.append((features.mean(0), np.cov(features, rowvar=False)))
    (m1, c1), (m2, c2) = stats
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real.sum()
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    assert ours["fid"] == pytest.approx(expected, rel=1e-4)


def test_too_few_pictures_are_an_error(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", range(1))
    b = write_folder(tmp_path / "b", range(2))
    with pytest.raises(ValueError, match=r"FID needs at least 2 pictures, got 1 in .*a"):
        distribution_metrics(a, b, extractor=SMALL_FEATURES)


class Bomb:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


def test_weights_are_looked_at_before_they_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.pth"
    with pytest.raises(MetricWeightsError, match=r"is not at .*missing\.pth.*Fetch https://"):
        inception_weights(missing)
    bomb = tmp_path / "bomb.pth"
    bomb.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(MetricWeightsError, match="cannot be read as weights"):
        inception_weights(bomb)
    assert capsys.readouterr().out == ""
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"\x80\x02h\x07.")  # asks for what was never put: a KeyError
    with pytest.raises(MetricWeightsError, match=r"damaged\.pth cannot be read as weights"):
        inception_weights(damaged)
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(MetricWeightsError, match="does not hold torch-fidelity's InceptionV3"):
        inception_weights(other)


@pytest.fixture
def vqgan() -> VQGAN:
    return tiny_vqgan()


def test_reconstruction_figures(vqgan: VQGAN) -> None:
    images = torch.stack([torch.from_numpy(pixels(n, 32, 32)).movedim(-1, 0) for n in range(5)])
    perceptual = PerceptualLoss("squeeze", weights="random")
    measures = ReconstructionMeasures(vqgan, perceptual)
    outputs = torch.cat([measures.add(part) for part in images.split(2)])
    figures = measures.figures()
    difference = (images.numpy().astype(float) - outputs.numpy().astype(float)) / 255
    psnr = -10 * np.log10((difference**2).mean(axis=(1, 2, 3)))
    assert figures["psnr"] == pytest.approx(psnr.mean(), rel=1e-9)
    assert figures["pictures"] == 5
    assert figures["codes"] == 5 * 256
    codes = vqgan.encode_indices(to_model_range(images))
    assert figures["codebook_usage"] == pytest.approx(len(codes.unique()) / 16)
    assert -1 <= figures["ssim"] < 1
    x, x_hat = (part / 127.5 - 1 for part in (images.float(), outputs.float()))
    assert figures["lpips"] == pytest.approx(float(perceptual(x, x_hat).mean()), rel=1e-4)


def test_a_perfect_reconstruction(vqgan: VQGAN) -> None:
    class Identity(torch.nn.Module):
        quantize = vqgan.quantize

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> tuple:
            return x, None, vqgan(x)[2]

    images = torch.from_numpy(pixels(0, 16, 16)).movedim(-1, 0)[None]
    measures = ReconstructionMeasures(Identity())
    assert torch.equal(measures.add(images), images)
    figures = measures.figures()
    assert figures["psnr"] == 100
    assert figures["ssim"] == pytest.approx(1)
    assert "lpips" not in figures
