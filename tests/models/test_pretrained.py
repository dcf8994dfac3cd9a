"""Folders on disk: damaged, unfitting or interrupted ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vqgan_fast.models.gpt import GPT
from vqgan_fast.models.pretrained import replacing
from vqgan_fast.models.vqgan import VQGAN

SIZES = {"vocab_size": 5, "block_size": 6, "n_layer": 1, "n_head": 1, "n_embd": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    GPT(**SIZES).save_pretrained(tmp_path)
    return tmp_path


def test_another_state_dict_can_be_saved(tmp_path: Path) -> None:
    average = {key: torch.ones_like(value) for key, value in GPT(**SIZES).state_dict().items()}
    GPT(**SIZES).save_pretrained(tmp_path, state_dict=average)
    assert all((value == 1).all() for value in GPT.from_pretrained(tmp_path).state_dict().values())


def test_a_run_folder_is_told_from_the_model_in_it(tmp_path: Path) -> None:
    for place in ("model", "vqgan", "model/vqgan"):
        run = tmp_path / place.replace("/", "_")
        GPT(**SIZES).save_pretrained(run / place)
        with pytest.raises(FileNotFoundError, match=rf"GPT.save_pretrained; did you mean {run}/"):
            GPT.from_pretrained(run)
        with pytest.raises(FileNotFoundError, match=r"VQGAN\.save_pretrained$"):
            VQGAN.from_pretrained(run)


def test_dtype_and_gradients_survive(tmp_path: Path) -> None:
    GPT(**SIZES).bfloat16().save_pretrained(tmp_path)
    loaded = GPT.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad and not p.is_meta for p in loaded.parameters())


def test_nothing_but_the_two_files_is_left(folder: Path) -> None:
    GPT(**SIZES).save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_files_are_replaced_together(tmp_path: Path) -> None:
    """A disk that is full at the second file leaves the first one as it was."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(first, second) as (one, two):
        one.write_text("new")
        two.write_text("half")
        raise OSError("disk full")
    assert first.read_text() == "old"
    assert list(tmp_path.iterdir()) == [first]


@pytest.mark.parametrize("content", ['{"model_type": "VQGAN"}', '{"a": 1}', "[1]", "3", "{"])
def test_another_config_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileExistsError, match=r"config\.json describes .* not replaced by a GPT"):
        GPT(**SIZES).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == content


def test_missing_files(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json.*GPT\.save_pretrained"):
        GPT.from_pretrained(folder / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        GPT.from_pretrained(folder)


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        GPT.from_pretrained(folder)


def test_truncated_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "GPT", ')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", r"config\.json is not valid JSON"),
        (b"[" * 100_000, r"config\.json is not valid JSON"),
        (b"[1, 2]", r"config\.json must hold a JSON object, got list"),
        (b"null", r"config\.json must hold a JSON object, got NoneType"),
    ],
)
def test_config_that_is_something_else(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        GPT.from_pretrained(folder)


def test_sizes_may_be_numpys_integers(tmp_path: Path) -> None:
    GPT(**{name: np.int64(value) for name, value in SIZES.items()}).save_pretrained(tmp_path)
    assert SIZES.items() <= GPT.from_pretrained(tmp_path).config.items()


def test_another_model(folder: Path) -> None:
    with pytest.raises(ValueError, match="describes a model of type GPT, expected VQGAN"):
        VQGAN.from_pretrained(folder)


@pytest.mark.parametrize(
    "change", [{"n_embd": 8}, {"n_layer": 2}, {"vocab_size": -1}, {"no_such_argument": 1}]
)
def test_config_that_does_not_fit(folder: Path, change: dict) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"config\.json does not fit its model"):
        GPT.from_pretrained(folder)
