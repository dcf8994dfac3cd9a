"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_pictures import write_pictures
from tiny import vqgan_run

from vqgan_fast.train import train_vqgan


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread: None) -> None:
    """Here all models are that small."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Eleven pictures: no batch size divides them, so that batches cross the ends of epochs."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 11)
    return folder


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory, pictures) -> Path:
    """The run folder of a VQGAN that was trained for two steps."""
    run_dir = tmp_path_factory.mktemp("first_stage") / "run"
    train_vqgan(vqgan_run(pictures, run_dir, optim__steps=2))
    return run_dir
