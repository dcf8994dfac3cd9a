"""Stage 2 with a condition: every kind trains, and a run is what its configuration says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from sample_pictures import write_pictures
from test_training_on_maps import LABELS
from tiny import read_metrics, transformer_run, vqgan_run

from vqgan_fast.data import DataError
from vqgan_fast.data.write_shards import plan_shards, write_shards
from vqgan_fast.models import LatentTransformer, SOSCondition
from vqgan_fast.train import ConfigError, train_transformer, train_vqgan
from vqgan_fast.train.conditioning import Conditioning, drop_some, shuffled

SMALL = {"data__size": 16}  # 4 x 4 codes


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve flat pictures in two class folders, and maps that say which of four greys each is."""
    root = tmp_path_factory.mktemp("paired")
    for number in range(12):
        label = number % 4
        for place, value in (("photos", 40 + 50 * label), ("maps", label)):
            file = root / place / ("dark", "light")[label // 2] / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16), value, np.uint8)).save(file)
    return root / "photos", root / "maps"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, paired: tuple[Path, Path]) -> dict[str, Path]:
    """Briefly trained VQGANs of the pictures and of their labels."""
    root = tmp_path_factory.mktemp("stages")
    quick = {**SMALL, "optim__steps": 20, "log__every": 20, "loss__disc_factor": 0.0}
    train_vqgan(vqgan_run(paired[0], root / "photos", **quick))
    maps = {"data__maps__folder": str(paired[1])}
    train_vqgan(vqgan_run(paired[0], root / "labels", **quick, **LABELS, **maps))
    return {name: root / name for name in ("photos", "labels")}


def conditioned(
    paired: tuple[Path, Path], stages: dict[str, Path], run_dir: Path, condition: object, **more
) -> object:
    photos = str(paired[0])
    data = {"data__train": photos, "data__validation": photos, "log__images_every": 100}
    return transformer_run(
        stages["photos"],
        run_dir,
        condition=condition,
        **{"log__every": 20, **SMALL, **data, **more},
    )


def segmentation(paired: tuple[Path, Path], stages: dict[str, Path]) -> dict[str, object]:
    return {
        "kind": "segmentation", "n_labels": 4, "vqgan": str(stages["labels"]),
        "folder": str(paired[1]), "validation_folder": str(paired[1]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["segmentation", "label", "both", "native"])
def test_the_true_condition_says_more_than_another_pictures(paired, stages, tmp_path, kind):
    conditions = {"segmentation": segmentation(paired, stages), "label": {"kind": "label"}}
    conditions["native"] = conditions["segmentation"]
    conditions["both"] = {"parts": [conditions["label"], conditions["segmentation"]]}
    native = {"transformer": "window_gpt", "gpt__n_embd": 32} if kind == "native" else {}
    config = conditioned(
        paired, stages, tmp_path / "run", conditions[kind], cond_drop_prob=0.1,
        optim__steps=40, optim__learning_rate=3e-3, **native,
    )  # fmt: skip
    train_transformer(config)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["val_nll"] < last["val_nll_shuffled"] - 0.1
    assert (tmp_path / "run" / "images" / "step_000040.png").is_file()
    model = LatentTransformer.from_pretrained(tmp_path / "run" / "model")
    assert model.null_token == model.transformer.vocab_size - 1 == 32
    own = tmp_path / "run" / "model" / ("condition_1" if kind == "both" else "condition")
    assert own.is_dir() == (kind != "label")


def test_conditions_in_shards_are_those_of_the_folders(paired, stages, tmp_path):
    """Labels, maps in shards of their own, cut elsewhere, and maps made of the picture; the run on
    shards stops within an epoch and goes on."""
    photos = write_shards(plan_shards(paired[0], 3), tmp_path / "tar" / "photos")
    write_shards(plan_shards(paired[1], 2), tmp_path / "tar" / "maps")
    of_maps = segmentation(paired, stages)
    in_shards = {**of_maps, "folder": f"{tmp_path}/tar/maps-{{000000..000001}}.tar"}
    others = [{"kind": "label"}, {"kind": "edges"}]
    quick = {"optim__steps": 4, "log__every": 1}
    folders = conditioned(paired, stages, tmp_path / "a", {"parts": [*others, of_maps]}, **quick)
    train_transformer(folders)
    for part in ({"optim__steps": 2}, {"resume": True, "data__num_workers": 1}):
        train_transformer(conditioned(
            paired, stages, tmp_path / "b", {"parts": [*others, in_shards]}, **quick | part,
            data__train=None, data__shards=[str(path) for path in photos],
        ))  # fmt: skip
    ours, theirs = read_metrics(tmp_path / "b"), read_metrics(tmp_path / "a")
    assert ours == theirs and ours[-1]["step"] == 4
    ours, theirs = (load_file(tmp_path / run / "model/gpt/model.safetensors") for run in "ba")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_what_one_map_leaves_out_all_do(paired, stages, tmp_path):
    of_maps = segmentation(paired, stages)
    fewer = tmp_path / "fewer"
    shutil.copytree(paired[1], fewer)
    (fewer / "light" / "03.png").unlink()
    parts = [of_maps, {"kind": "label"}, {**of_maps, "folder": str(fewer), "unpaired": "skip"}]
    config = conditioned(paired, stages, tmp_path / "run", {"parts": parts})
    conditioning = Conditioning(config, None, SOSCondition())
    with pytest.warns(UserWarning, match=r"1 pictures left out:\n.*03\.png: no 03\.\* in") as told:
        files, (first, labels, second) = conditioning.open(held_out=False)
    assert len(told) == 1
    names = [file.name for file in files]
    assert "03.png" not in names and len(names) == len(labels.labels) == 11
    assert names == [file.name for file in first.files] == [file.name for file in second.files]


@pytest.mark.parametrize("kind", ["edges", "low_resolution", "coordinates"])
def test_what_is_made_of_the_picture_goes_through_the_first_stage(paired, stages, tmp_path, kind):
    condition = {"kind": kind, "n_tokens": 64} if kind == "coordinates" else {"kind": kind}
    config = conditioned(paired, stages, tmp_path / "run", condition, optim__steps=1)
    train_transformer(config)
    model = LatentTransformer.from_pretrained(tmp_path / "run" / "model")
    assert model.cond_stage_model.num_grids == 1
    if kind != "coordinates":
        assert model.cond_stage_model.vqgan is model.first_stage_model
    assert model.transformer.vocab_size == (64 if kind == "coordinates" else 32)
    assert "val_nll_shuffled" in read_metrics(tmp_path / "run")[-1]


def test_a_resumed_run_drops_the_same_conditions(paired, stages, tmp_path):
    def run(name, **more):
        condition = segmentation(paired, stages)
        options = {"cond_drop_prob": 0.5, "pkeep": 0.8, "gpt__n_unmasked": 16, **more}
        train_transformer(conditioned(paired, stages, tmp_path / name, condition, **options))

    run("whole", optim__steps=4)
    run("parts", optim__steps=2)
    run("parts", optim__steps=4, resume=True)
    whole, parts = (
        load_file(tmp_path / name / "model" / "gpt" / "model.safetensors")
        for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    with pytest.raises(ConfigError, match=r"was trained with cond_drop_prob = 0\.5"):
        run("parts", cond_drop_prob=0.0, resume=True)


def test_maps_and_their_vqgan_may_move_and_are_told(paired, stages, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(paired[1], moved / "maps")
    shutil.copytree(stages["labels"], moved / "vqgan")
    of_maps = segmentation(paired, stages)
    elsewhere = {**of_maps, "folder": str(moved / "maps"), "vqgan": str(moved / "vqgan")}

    def run(name, condition, **more):
        run_dir = tmp_path / name
        train_transformer(conditioned(paired, stages, run_dir, condition, optim__steps=1, **more))

    run("one", of_maps)
    run("one", elsewhere, resume=True)
    assert f"condition.folder = {moved / 'maps'}, until now {paired[1]}" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"was trained with condition\.shift = 0"):
        run("one", {**of_maps, "shift": 256}, resume=True)
    with pytest.raises(ConfigError, match=r"was trained with condition\.(folder|kind) = "):
        run("one", {"kind": "edges"}, resume=True)
    run("two", {"parts": [{"kind": "label"}, of_maps]})
    run("two", {"parts": [{"kind": "label"}, elsewhere]}, resume=True)
    assert "condition.parts.1.vqgan = " in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"was trained with condition\.parts\.1\.n_labels = 4"):
        run("two", {"parts": [{"kind": "label"}, {**of_maps, "n_labels": 5}]}, resume=True)
    # What an older version kept beside parts, where nothing reads it.
    written = OmegaConf.load(tmp_path / "two" / "config.yaml")
    written.condition.unpaired, written.condition.vqgan = "skip", "somewhere"
    OmegaConf.save(written, tmp_path / "two" / "config.yaml")
    run("two", {"parts": [{"kind": "label"}, elsewhere]}, resume=True)


def test_conditions_are_dropped_whole_and_by_position():
    tokens = (torch.ones(500, 1, dtype=torch.int64), torch.ones(500, 2, 3, dtype=torch.int64))
    label, grid = drop_some(tokens, list(range(500)), 0.2, 9, seed=3)
    dropped = label[:, 0] == 9
    assert torch.equal((grid == 9).all((1, 2)), dropped)
    assert torch.equal((grid == 1).all((1, 2)), ~dropped)
    assert float(dropped.float().mean()) == pytest.approx(0.2, abs=0.05)
    part = drop_some(tokens[0][:3], [7, 8, 9], 0.2, 9, seed=3)
    assert torch.equal(part, label[7:10])


@pytest.mark.parametrize("count", [2, 3, 50])
def test_no_picture_keeps_its_condition_when_they_are_shuffled(count):
    rows = torch.arange(count)[:, None]
    other = shuffled(rows)
    assert not (other == rows).any()
    assert torch.equal(other.sort(0).values, rows)


@pytest.mark.parametrize(
    ("condition", "more", "message"),
    [
        ({"kind": "weather"}, {}, r"condition\.kind must be one of sos, label, segmentation"),
        ({"kind": "depth"}, {}, r"condition\.folder must be given for the depth of"),
        ({"kind": "edges", "vqgan": "nowhere"}, {}, "vqgan points to nowhere, which does not"),
        ({"kind": "label", "vqgan": "."}, {}, r"condition\.vqgan is for maps, got \. with label"),
        ("sos", {"cond_drop_prob": 0.1}, r"cond_drop_prob = 0\.1 needs a condition"),
        ("label", {"cond_drop_prob": 1.5}, "cond_drop_prob must be between 0 and 1"),
        ({"parts": [{"kind": "sos"}]}, {}, r"condition\.parts\[0\]\.kind must be one of label"),
        ({"kind": "label", "parts": [{"kind": "edges"}]}, {}, "must not be given beside"),
        ({"vqgan": ".", "parts": [{"kind": "label"}]}, {}, r"condition\.vqgan must not be giv"),
        ({"n_labels": 4, "parts": [{"kind": "label"}]}, {}, r"condition\.n_labels must .* 4"),
        ({"parts": [{"kind": "label"}]}, {"transformer": "window_gpt"}, "parts needs transformer"),
        ({"kind": "low_resolution", "factor": 1}, {}, r"condition\.factor must be at least 2"),
        ({"kind": "coordinates", "n_tokens": 0}, {}, r"condition\.n_tokens must be at least 1"),
    ],
)
def test_refused_configurations(paired, stages, tmp_path, condition, more, message):
    with pytest.raises(ConfigError, match=message):
        conditioned(paired, stages, tmp_path / "run", condition, **more)


def test_what_does_not_fit_is_named_before_anything_is_trained(paired, stages, tmp_path):
    photos, maps = paired
    good = segmentation(paired, stages)

    def train(condition, **more):
        train_transformer(conditioned(paired, stages, tmp_path / "run", condition, **more))

    with pytest.raises(ConfigError, match="must be a VQGAN of 5 channels, those of segmentation"):
        train({**good, "n_labels": 5})
    with pytest.raises(ConfigError, match=r"segmentation maps, got one of 3"):
        train({**good, "vqgan": str(stages["photos"])})
    with pytest.raises(ConfigError, match=r"condition\.vqgan = .* holds no VQGAN"):
        train({**good, "vqgan": str(maps)})
    with pytest.raises(ConfigError, match="n_unmasked must be at most 16, the condition's tokens"):
        train(good, gpt__n_unmasked=17)
    flat = tmp_path / "flat"
    write_pictures(flat, 2)
    with pytest.raises(DataError, match="holds no folders of pictures, one for each class"):
        train({"kind": "label"}, data__train=str(flat))
    with pytest.raises(DataError, match=r"picture_000\.png lies in no folder of a class; the"):
        train({"kind": "label"}, data__validation=str(flat))
    with pytest.raises(DataError, match=r"2 of 2 pictures have no fitting map .*\n.*picture_000"):
        train(good, data__validation=str(flat))
    with pytest.raises(DataError, match=r"\d\d\.png holds label [45]; with n_labels = 4"):
        train({**good, "shift": 2})
    assert not (tmp_path / "run").exists()
    assert photos.is_dir()
