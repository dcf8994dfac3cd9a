"""Runs of untrained models and pictures for the commands."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import CODES, WINDOW
from PIL import Image
from small_features import SMALL_FEATURES
from tiny_vqgan import tiny_vqgan

from vqgan_fast import GPT, VQGAN, LatentTransformer
from vqgan_fast import evaluate as figures_of
from vqgan_fast.models.conditions import SOSCondition


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread: None) -> None:
    """Here all models are that small."""


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return tiny_vqgan(CODES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, vqgan: VQGAN) -> Path:
    """A folder with a run of each stage, as training leaves them, of untrained weights."""
    folder = tmp_path_factory.mktemp("trained")
    vqgan.save_pretrained(folder / "stage1" / "vqgan")
    gpt = GPT(CODES, WINDOW**2 + 1, n_layer=1, n_head=2, n_embd=16)
    LatentTransformer(vqgan, SOSCondition(), gpt).save_pretrained(folder / "stage2" / "model")
    return folder


@pytest.fixture
def small_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """FID and inception score by features of few weights, whatever weights are asked for."""
    small = partial(figures_of.distribution_metrics, extractor=SMALL_FEATURES)
    monkeypatch.setattr(figures_of, "inception_weights", lambda weights: weights)
    monkeypatch.setattr(figures_of, "distribution_metrics", lambda *folders, weights, **more:
                        small(*folders, **more))  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (20, 31), "b.png": (16, 16)}.items():
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder
