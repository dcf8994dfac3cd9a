"""Stage 1 on maps instead of pictures: labels, depth, and what is made of the picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sample_pictures import cut_in_half, write_pictures
from tiny import read_metrics, vqgan_run

from vqgan_fast.data import DataError
from vqgan_fast.models import VQGAN
from vqgan_fast.train import ConfigError, train_vqgan

LABELS = {
    "data__maps__kind": "segmentation", "data__maps__n_labels": 4, "loss__kind": "segmentation",
    "model__in_channels": 4, "model__out_ch": 4,
}  # fmt: skip
DEPTH = {"data__maps__kind": "depth", "model__in_channels": 1, "model__out_ch": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures, and maps of their red channel over 64: labels, and a depth just as well."""
    root = tmp_path_factory.mktemp("paired")
    (root / "maps").mkdir()
    for file in write_pictures(root / "photos", 6):
        red = np.array(Image.open(file))[..., 0] // 64
        Image.fromarray(red).save(root / "maps" / file.name)
    return root / "photos", root / "maps"


def with_folders(folders: tuple[Path, Path], **changes: object) -> dict[str, object]:
    photos, maps = map(str, folders)
    files = {"data__maps__folder": maps, "data__maps__validation_folder": maps}
    return {"data__validation": photos, "log__images_every": 10, **files, **changes}


def test_a_vqgan_of_labels_learns(folders: tuple[Path, Path], tmp_path: Path) -> None:
    changes = with_folders(folders, **LABELS, optim__steps=40, log__every=10)
    train_vqgan(vqgan_run(folders[0], tmp_path / "run", **changes))
    entries = read_metrics(tmp_path / "run")
    assert set(entries[0]) >= {"rec_loss", "quant_loss", "accuracy", "val_accuracy"}
    assert not set(entries[0]) & {"disc_loss", "g_loss", "p_loss", "val_psnr"}
    assert entries[-1]["rec_loss"] < 0.8 * entries[0]["rec_loss"]
    assert entries[-1]["val_accuracy"] > 0.4  # of four labels
    model = VQGAN.from_pretrained(tmp_path / "run" / "vqgan")
    assert model.config["in_channels"] == model.config["out_ch"] == 4
    with Image.open(tmp_path / "run" / "images" / "step_000040.png") as picture:
        assert picture.mode == "RGB"


def test_a_run_on_labels_resumes_to_the_bit(folders: tuple[Path, Path], tmp_path: Path) -> None:
    changes = with_folders(folders, **LABELS, log__checkpoint_every=2, optim__ema_decay=0.9)
    train_vqgan(vqgan_run(folders[0], tmp_path / "whole", **changes, optim__steps=4))
    for settings in ({"optim__steps": 2}, {"optim__steps": 4, "resume": True}):
        train_vqgan(vqgan_run(folders[0], tmp_path / "parts", **changes, **settings))
    whole, parts = (
        load_file(tmp_path / name / "vqgan" / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


@pytest.mark.parametrize(
    "changes", [DEPTH, {"data__maps__kind": "edges"}, {"data__maps__kind": "low_resolution"}]
)
def test_other_maps_train_with_the_game(
    folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, object]
) -> None:
    if changes is DEPTH:
        changes = with_folders(folders, **DEPTH)
    else:
        changes = {"data__validation": str(folders[0]), **changes}
    train_vqgan(vqgan_run(folders[0], tmp_path / "run", **changes, optim__steps=2))
    last = read_metrics(tmp_path / "run")[-1]
    assert last["disc_loss"] > 0
    assert last["val_psnr"] > 0


def test_a_damaged_map_is_skipped_with_its_picture_counted_and_told_once(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    maps = tmp_path / "maps"
    shutil.copytree(folders[1], maps)
    cut = cut_in_half(maps / "picture_002.png")
    changes = with_folders((folders[0], maps), **LABELS, optim__steps=3)
    with pytest.warns(UserWarning, match=rf"1 held-out pictures left out:\n  {cut} cannot be read"):
        result = train_vqgan(vqgan_run(folders[0], tmp_path / "run", **changes))
    assert result.metrics["skipped_images"] == 1
    told = f"skipped {folders[0] / cut.name}: it or its map {cut} cannot be read; training goes on"
    assert capsys.readouterr().err.count(told) == 1


def test_labels_out_of_range_end_the_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    changes = with_folders(folders, **LABELS) | {
        "data__maps__n_labels": 3, "model__in_channels": 3, "model__out_ch": 3,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"picture_00\d\.png holds label 3"):
        train_vqgan(vqgan_run(folders[0], tmp_path / "run", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__maps__kind": "weather"}, "data.maps.kind must be one of segmentation, depth"),
        (LABELS, "data.maps.folder must be given for the segmentation of"),
        (LABELS | {"loss__kind": "vqgan"}, "loss.kind = segmentation goes with"),
        ({"loss__kind": "segmentation"}, "loss.kind = segmentation goes with"),
        (LABELS | {"model__out_ch": 3}, "model.out_ch must be 4, the channels of segmentation"),
        ({"model__in_channels": 1}, "model.in_channels must be 3, pictures are RGB"),
        ({"data__maps__kind": "edges", "data__maps__sigma": 0.0}, "sigma must be above 0"),
        ({"data__maps__kind": "low_resolution", "data__maps__factor": 1}, "factor must be at"),
        (LABELS | {"data__maps__n_labels": 300}, r"n_labels must lie in \[1, 256\], got 300"),
        ({"data__maps__folder": "."}, "data.maps.folder is for maps that are files"),
    ],
)
def test_refusals(
    folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    if "folder must" not in message and changes.get("data__maps__kind") == "segmentation":
        changes = {"data__maps__folder": str(folders[1]), **changes}
    with pytest.raises(ConfigError, match=message):
        vqgan_run(folders[0], tmp_path / "run", **changes)
