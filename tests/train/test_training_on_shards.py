"""Training on tar shards is training on the folder; what is wrong with a shard is said."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file
from tiny import read_metrics, transformer_run, vqgan_run

from vqgan_fast.data import DataError
from vqgan_fast.data.write_shards import plan_shards, write_shards
from vqgan_fast.train import ConfigError, train_transformer, train_vqgan
from vqgan_fast.train.config import DataConfig
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.training_pictures import training_pictures

# Eleven pictures in batches of four: the second half begins within an epoch and crosses its end.
STEPS = {"optim__steps": 4, "log__checkpoint_every": 2, "loss__disc_start": 3}


@pytest.fixture
def shards(pictures, tmp_path):
    return write_shards(plan_shards(pictures, 3), tmp_path / "tar" / "photos")


def on_shards(paths, run_dir, **changes):
    shards = f"{paths[0].parent}/photos-{{000000..000002}}.tar"
    return vqgan_run(None, run_dir, **{"data__train": None, "data__shards": shards, **changes})


def same_run(one, other):
    ours, theirs = (load_file(run / "vqgan" / "model.safetensors") for run in (one, other))
    assert read_metrics(one) == read_metrics(other)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_truncated_shard_stops_a_run_that_goes_on_with_the_whole_one(pictures, shards, tmp_path):
    train_vqgan(vqgan_run(pictures, tmp_path / "folder", **STEPS))
    train_vqgan(on_shards(shards, tmp_path / "run", **{**STEPS, "optim__steps": 2}))

    content, status = shards[1].read_bytes(), shards[1].stat()
    shards[1].write_bytes(content[: len(content) // 2])
    resumed = on_shards(shards, tmp_path / "run", **STEPS, resume=True)
    with pytest.raises(DataError, match=rf"the shard .*{shards[1].name} is cut off"):
        train_vqgan(resumed)
    shards[1].write_bytes(content)
    os.utime(shards[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    train_vqgan(resumed)
    same_run(tmp_path / "folder", tmp_path / "run")


def test_stage_2_trains_on_shards(pictures, shards, first_stage, tmp_path):
    named = [str(path) for path in shards]
    for name, source in (("folder", {"train": str(pictures)}), ("shards", {"shards": named})):
        changes = {f"data__{key}": value for key, value in source.items()}
        train_transformer(transformer_run(first_stage, tmp_path / name, optim__steps=2, **changes))
    assert read_metrics(tmp_path / "folder") == read_metrics(tmp_path / "shards")


def test_fewer_shards_than_ranks_are_refused(shards):
    data = DataConfig(shards=[str(path) for path in shards])
    with pytest.raises(ConfigError, match=r"as many as the 4 ranks.*got 3 \(.*photos-000000.tar"):
        training_pictures(data, Ranks(1, 4, torch.device("cpu")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": []}, r"data\.shards must name at least one tar file, got an empty list"),
        ({"shards": 3}, r"data\.shards must be a pattern of tar files, or a list .*got 3"),
        ({"shards": ["a.tar", None]}, r"data\.shards must be a pattern"),
        ({"shards": "a.tar", "train": "."}, r"instead of it, data\.shards\. Got both"),
        ({"train": "photos-*.tar"}, r"tar files are given as data\.shards, got data\.train = ph"),
        ({"shards": "a.tar", "maps": {"kind": "keypoints"}}, r"maps\.folder must .*a\.tar"),
    ],
)  # fmt: skip
def test_mistakes_of_a_configuration_are_named(tmp_path, changes, message):
    changes = {f"data__{key}": value for key, value in {"train": None, **changes}.items()}
    with pytest.raises(ConfigError, match=message):
        vqgan_run(None, tmp_path / "run", **changes)


def test_no_shard_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no shard matches"):
        train_vqgan(vqgan_run(None, tmp_path / "r", data__train=None, data__shards="no-*.tar"))
