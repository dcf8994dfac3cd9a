"""Runs of untrained models and pictures for the commands."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import CODES, WINDOW
from condition_runs import save_depth_run
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five pictures of 8 x 8 pixels, and their depth."""
    root = tmp_path_factory.mktemp("depth")
    generator = np.random.default_rng(0)
    for number in range(5):
        for place, shape in (("photos", (8, 8, 3)), ("maps", (8, 8))):
            (root / place).mkdir(exist_ok=True)
            pixels = generator.integers(256, size=shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
    return root / "photos", root / "maps"


@pytest.fixture(scope="module")
def depth_run(tmp_path_factory: pytest.TempPathFactory, folders: tuple[Path, Path]) -> Path:
    run = tmp_path_factory.mktemp("runs") / "depth"
    save_depth_run(run, *folders)
    return run
