"""Stage 2: it learns, from pictures and from codes, and resumes to the bit."""

from __future__ import annotations

import math
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_stage1 import interrupt_at
from tiny import read_metrics, transformer_run

from vqgan_fast.data import ImageStream, list_images, read_codes, tokenize_images, write_codes
from vqgan_fast.models import VQGAN, LatentTransformer, WindowGPT
from vqgan_fast.sampling import sample
from vqgan_fast.train import ConfigError, TrainingInterrupted, train_transformer
from vqgan_fast.train.code_source import replace_codes
from vqgan_fast.train.first_stage import load_first_stage

EVERYTHING = {
    "gpt__resid_pdrop": 0.1, "pkeep": 0.8, "optim__accumulate": 2, "optim__ema_decay": 0.8,
    "optim__steps": 8, "log__every": 2, "log__checkpoint_every": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def codes(tmp_path_factory, pictures, first_stage):
    """The codes of one centre crop of each picture, and their file."""
    vqgan = VQGAN.from_pretrained(first_stage / "vqgan")
    stream = ImageStream(list_images(pictures), size=32, crop="center", shuffle=False)
    tokens, _ = tokenize_images(vqgan, stream)
    path = tmp_path_factory.mktemp("codes") / "codes.safetensors"
    write_codes(path, tokens, vqgan.quantize.embedding.weight)
    return path


def weights(run_dir):
    return load_file(run_dir / "model" / "gpt" / "model.safetensors")


def test_it_learns_and_measures_on_held_out_pictures(tmp_path, first_stage, pictures):
    config = transformer_run(
        first_stage, tmp_path / "run", data__train=str(pictures), optim__steps=40, log__every=10,
        data__validation=str(pictures), data__validation_crops=5,
    )  # fmt: skip
    result = train_transformer(config)
    entries = read_metrics(tmp_path / "run")
    for key in ("nll", "val_nll"):
        assert entries[-1][key] < entries[0][key] < math.log(32) + 0.1
    # The exported model gives the held-out figure again.
    model = LatentTransformer.from_pretrained(tmp_path / "run" / "model")
    stream = ImageStream(list_images(pictures), size=32, crop="center", shuffle=False)
    rows = np.linspace(0, 10, 5).astype(int)
    images = torch.stack([stream[int(row)].image for row in rows]).float() / 127.5 - 1
    with torch.no_grad():
        logits, target = model(images)
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    assert result.metrics["val_nll"] == pytest.approx(float(nll), rel=1e-5)
    grid = np.asarray(Image.open(tmp_path / "run" / "images" / "step_000040.png"))
    assert grid.shape == (2 * 34 - 2, 5 * 34 - 2, 3)


@pytest.mark.parametrize("source", ["pictures", "codes"])
def test_an_interrupted_run_goes_on_to_the_bit(
    tmp_path, first_stage, pictures, codes, source, monkeypatch
):
    data = {"data__train": str(pictures)} if source == "pictures" else {"data__codes": str(codes)}
    data["data__validation"] = str(pictures)

    def run(name, **more):
        train_transformer(
            transformer_run(first_stage, tmp_path / name, **{**EVERYTHING, **data, **more})
        )

    run("whole")
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5, signal.SIGINT)
        with pytest.raises(TrainingInterrupted) as stopped:
            run("stopped")
    assert stopped.value.code == 130
    run("stopped", resume=True)
    whole, stopped = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "stopped")
    assert [entry["step"] for entry in stopped] == [2, 4, 5, 6, 8]  # 5: where it was stopped
    assert stopped[-2:] == whole[-2:]
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(w, expected[key]) for key, w in weights(tmp_path / "stopped").items())


def test_codes_from_a_file_train_as_the_same_pictures_do(tmp_path, first_stage, pictures, codes):
    still = {"data__crop": "center", "data__flip": False}
    for name, data in (("pictures", {"data__train": str(pictures), **still}),
                       ("codes", {"data__codes": str(codes)})):  # fmt: skip
        train_transformer(transformer_run(first_stage, tmp_path / name, **data))
    assert read_metrics(tmp_path / "pictures") == read_metrics(tmp_path / "codes")


def test_a_size_that_codes_contradict_is_told_and_not_used(tmp_path, first_stage, codes, capsys):
    for name, size in (("same", 32), ("other", 16)):
        assert "WARNING" not in capsys.readouterr().err
        changes = {"data__codes": str(codes), "data__size": size, "optim__steps": 1}
        train_transformer(transformer_run(first_stage, tmp_path / name, **changes))
    told = capsys.readouterr().err
    assert "WARNING: data.size = 16 contradicts data.codes = " in told
    assert "8 x 8 codes are of crops of 32 x 32 pixels: data.size is not used" in told
    assert read_metrics(tmp_path / "same") == read_metrics(tmp_path / "other")
    assert LatentTransformer.from_pretrained(tmp_path / "other" / "model").grid == (8, 8)


def test_a_run_of_stage_2_has_a_first_stage_too(tmp_path, first_stage):
    shutil.copytree(first_stage / "vqgan", tmp_path / "gpt" / "model" / "vqgan")
    loaded = load_first_stage(str(tmp_path / "gpt")).state_dict()
    expected = VQGAN.from_pretrained(first_stage / "vqgan").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_the_first_stage_is_exported_unchanged(tmp_path, first_stage, codes):
    train_transformer(
        transformer_run(first_stage, tmp_path / "run", data__codes=str(codes), optim__steps=1)
    )
    before = load_file(first_stage / "vqgan" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "vqgan" / "model.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_only_linear_weights_decay(tmp_path, first_stage, codes):
    # A rate so small that gradients move nothing, a decay so large that it does.
    changes = {"optim__learning_rate": 1e-9, "optim__weight_decay": 5e8, "optim__steps": 1}
    for name, more in (("decayed", changes), ("kept", {**changes, "optim__weight_decay": 0.0})):
        train_transformer(
            transformer_run(first_stage, tmp_path / name, data__codes=str(codes), **more)
        )
    decayed, kept = weights(tmp_path / "decayed"), weights(tmp_path / "kept")
    for key, value in kept.items():
        is_linear = key.endswith("weight") and "ln" not in key and "emb" not in key
        assert torch.allclose(decayed[key], value * (0.5 if is_linear else 1), atol=1e-7), key


def test_codes_are_replaced_as_often_as_asked_and_by_position():
    codes = torch.full((64, 8, 8), 1000)
    replaced = replace_codes(codes, list(range(64)), 0.75, 1000, seed=1)
    changed = replaced != 1000
    assert changed.float().mean() == pytest.approx(0.25, abs=0.03)
    assert len(replaced[changed].unique()) > 500
    part = replace_codes(codes[:8], list(range(8, 16)), 0.75, 1000, seed=1)
    assert torch.equal(part, replaced[8:16])
    assert not torch.equal(replace_codes(codes, list(range(64)), 0.75, 1000, seed=2), replaced)
    assert replace_codes(codes, list(range(64)), 1.0, 1000, seed=1) is codes


def test_pkeep_reaches_the_training(tmp_path, first_stage, codes):
    for name, pkeep in (("all", 1.0), ("none", 0.0)):
        train_transformer(
            transformer_run(first_stage, tmp_path / name, data__codes=str(codes), pkeep=pkeep)
        )
    assert read_metrics(tmp_path / "all") != read_metrics(tmp_path / "none")
    assert LatentTransformer.from_pretrained(tmp_path / "none" / "model").pkeep == 0


def test_what_does_not_fit_the_first_stage_is_named(tmp_path, first_stage, pictures, codes):
    def train(**changes):
        train_transformer(transformer_run(first_stage, tmp_path / "run", **changes))

    with pytest.raises(ConfigError, match=r"data\.size must be a multiple of .* f = 4, got 30"):
        train(data__train=str(pictures), data__size=30)
    tokens = read_codes(codes).tokens
    write_codes(tmp_path / "other.safetensors", tokens, torch.zeros(32, 8))
    with pytest.raises(ConfigError, match="another VQGAN than first_stage"):
        train(data__codes=str(tmp_path / "other.safetensors"))
    contradicts = r"data\.size = 16 contradicts .* 8 x 8 codes are of crops of 32 x 32 pixels"
    with pytest.raises(ConfigError, match=rf"{contradicts}: .* of data\.validation"):
        train(data__codes=str(codes), data__validation=str(pictures), data__size=16)
    tokens[3, 1, 2] = 32
    metadata = {"codebook_size": "32", "codebook": read_codes(codes).codebook}
    save_file({"tokens": tokens}, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(ValueError, match=r"bad.*token 32 at \[3, 1, 2\] is out of range"):
        train(data__codes=str(tmp_path / "bad.safetensors"))
    config = transformer_run(pictures, tmp_path / "run", data__codes=str(codes))
    with pytest.raises(ConfigError, match=r"first_stage = .* holds no VQGAN that can be read"):
        train_transformer(config)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_another_first_stage(tmp_path, first_stage, codes):
    changes = {"data__codes": str(codes), "optim__steps": 1}
    train_transformer(transformer_run(first_stage, tmp_path / "run", **changes))
    moved, other = tmp_path / "moved", tmp_path / "other"
    for folder in (moved, other):
        shutil.copytree(first_stage / "vqgan", folder)
    vqgan = VQGAN.from_pretrained(other)
    with torch.no_grad():  # the codebook stays, the codes of pictures do not
        vqgan.quant_conv.bias[0] += 1
    vqgan.save_pretrained(other)
    changes |= {"resume": True, "optim__steps": 2}
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match="trained on the codes of another VQGAN"):
        train_transformer(transformer_run(other, tmp_path / "run", **changes))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == log
    assert train_transformer(transformer_run(moved, tmp_path / "run", **changes)).step == 2


def test_workers_and_the_cache_change_nothing(tmp_path, first_stage, pictures):
    for name, changes in (("plain", {}), ("workers", {"data__num_workers": 2}),
                          ("cached", {"data__cache": True})):  # fmt: skip
        train_transformer(
            transformer_run(first_stage, tmp_path / name, data__train=str(pictures), **changes)
        )
    plain = read_metrics(tmp_path / "plain")
    assert plain == read_metrics(tmp_path / "workers") == read_metrics(tmp_path / "cached")
    assert len(plain) == 4


def test_the_native_transformer_trains_and_is_sampled(tmp_path, first_stage, codes):
    config = transformer_run(
        first_stage, tmp_path / "run", data__codes=str(codes), transformer="window_gpt",
        optim__steps=20, log__every=10,
    )  # fmt: skip
    train_transformer(config)
    entries = read_metrics(tmp_path / "run")
    assert entries[-1]["nll"] < entries[0]["nll"] < math.log(32) + 0.1
    model = LatentTransformer.from_pretrained(tmp_path / "run" / "model")
    assert isinstance(model.transformer, WindowGPT)
    assert sample(model, seeds=[1]).shape == (1, 3, 32, 32)
    assert sample(model, grid=(3, 20), seeds=[1]).shape == (1, 3, 12, 80)


def test_the_native_transformer_has_no_unmasked_prefix(first_stage, codes, tmp_path):
    with pytest.raises(ConfigError, match=r"gpt.n_unmasked must be 0 for transformer = window_gpt"):
        transformer_run(
            first_stage, tmp_path / "run", data__codes=str(codes), transformer="window_gpt",
            gpt__n_unmasked=1,
        )  # fmt: skip
