"""What a run is not resumed with: refusals name the key, and nothing of the run is changed."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from tiny import transformer_run, vqgan_run

from vqgan_fast.train import ConfigError, train_transformer, train_vqgan


def content(run_dir):
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_crops_of_another_size_do_not_move_the_attention(tmp_path, pictures):
    def train(**changes):
        changes = {"model__attn_resolutions": [8], "model__resolution": None, **changes}
        return train_vqgan(vqgan_run(pictures, tmp_path, **changes))

    def names():
        return load_file(tmp_path / "vqgan" / "model.safetensors").keys()

    train(optim__steps=1)
    before, trained = content(tmp_path), names()
    assert any(name.startswith("encoder.down.2.attn") for name in trained)
    refused = (
        r"model\.resolution = 32 and cannot be resumed with 16; give model\.resolution=32, "
        r"whatever data\.size is, to keep the architecture"
    )
    with pytest.raises(ConfigError, match=refused):
        train(optim__steps=2, data__size=16, resume=True)
    with pytest.raises(ConfigError, match=r"model\.resolution = 32 and cannot be resumed with 64"):
        train(optim__steps=2, model__resolution=64, resume=True)
    assert content(tmp_path) == before
    given = {"data__size": 16, "model__resolution": 32, "resume": True}
    assert train(optim__steps=2, **given).step == 2
    assert train(optim__steps=3, **given).step == 3
    assert names() == trained


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("loss.disc_num_layers", 2, 1),
        ("loss.disc_ndf", 8, 16),
        ("loss.use_actnorm", False, True),
        ("codebook.usage_window", 100, 50),
        ("optim.ema_decay", None, 0.9),
    ],
)
def test_what_tensors_of_a_checkpoint_follow_from_is_named(first_stage, pictures, key, old, new):
    before = content(first_stage)
    change = {key.replace(".", "__"): new, "resume": True, "optim__steps": 3}
    refused = rf"was trained with {key} = {old} and cannot be resumed with {new}; "
    with pytest.raises(ConfigError, match=refused):
        train_vqgan(vqgan_run(pictures, first_stage, **change))
    assert content(first_stage) == before


def test_a_gpt_does_not_go_on_with_another_grid_of_codes(tmp_path, first_stage, pictures):
    def train(kind, **changes):
        changes = {"data__train": str(pictures), "transformer": kind, **changes}
        return train_transformer(transformer_run(first_stage, tmp_path / kind, **changes))

    for kind in ("gpt", "window_gpt"):
        train(kind, optim__steps=1)
    other = {"resume": True, "optim__steps": 2, "data__size": 16}
    with pytest.raises(
        ConfigError, match=r"data\.size = 32 and cannot be resumed with 16; its pos"
    ):
        train("gpt", **other)
    assert train("window_gpt", **other).step == 2


def test_another_order_of_pictures_is_told(tmp_path, pictures, capsys):
    train_vqgan(vqgan_run(pictures, tmp_path, optim__steps=1))
    capsys.readouterr()
    train_vqgan(vqgan_run(pictures, tmp_path, optim__steps=2, resume=True, seed=7))
    told = "WARNING: resumed with seed = 7, until now 0: the rest of this epoch is another one"
    assert told in capsys.readouterr().err


def test_averages_that_are_dropped_are_told(tmp_path, pictures, capsys):
    changes = {"log__checkpoint_every": 1, "log__keep_checkpoints": 1}
    train_vqgan(vqgan_run(pictures, tmp_path, optim__steps=1, optim__ema_decay=0.5, **changes))
    capsys.readouterr()
    config = vqgan_run(pictures, tmp_path, optim__steps=2, resume=True, **changes)
    assert train_vqgan(config).step == 2
    told = "WARNING: without optim.ema_decay, until now 0.5, the averaged weights are dropped"
    assert told in capsys.readouterr().err
