"""`vqgan-fast evaluate` with a model that is conditioned on maps, and with a VQGAN of maps."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from condition_runs import CODES, depth_maps, depth_tokens, encoded_sizes, run_sample
from PIL import Image
from tiny_vqgan import tiny_vqgan

from vqgan_fast.cli import main
from vqgan_fast.data import to_model_range
from vqgan_fast.data.stream import channels_first
from vqgan_fast.models import (
    LatentTransformer,
)
from vqgan_fast.train import build_config, load_config, save_config


def test_held_out_conditions_and_their_likelihood(depth_run, folders, tmp_path, capsys):
    run_sample(depth_run, "--held-out", "--number", 5, "--output", tmp_path / "drawn")
    page = np.array(Image.open(tmp_path / "drawn" / "page.png"))
    assert page.shape[0] == 3 * (8 + 18) + 2 * 4  # map, picture, sample
    figures = tmp_path / "figures.json"
    photos, maps = folders
    arguments = ["--maps", maps, "--metrics", "nll", "--json", figures]
    assert main(["evaluate", str(depth_run), str(photos), *map(str, arguments)]) == 0
    told = json.loads(figures.read_text())["figures"]
    model = LatentTransformer.from_pretrained(depth_run / "model")
    files = sorted(photos.iterdir())
    images = torch.stack([channels_first(np.array(Image.open(file))) for file in files])
    codes = model.encode_to_codes(to_model_range(images))
    tokens = depth_tokens(depth_run, sorted(maps.iterdir()))
    sequence = torch.cat([tokens.flatten(1), codes.flatten(1)], dim=1)
    with torch.no_grad():
        logits = model.transformer(sequence[:, :-1])[:, 15:]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())
    assert told["nll"] == pytest.approx(float(nll), rel=1e-5)
    assert told["nll_crops"] == 5
    two = ["--maps", str(maps), str(maps), "--metrics", "nll"]
    assert main(["evaluate", str(depth_run), str(photos), *two]) != 0
    told_of_two = capsys.readouterr().err
    assert "--maps must be 1 folders, the run is conditioned on depth, got 2" in told_of_two
    assert abs(told["nll_shuffled"] - told["nll"]) > 1e-3


def test_likelihood_is_that_of_all_crops_of_the_pictures_so_many_at_a_time(
    depth_run, folders, tmp_path, monkeypatch
):
    """Whatever the run has held out of its own pictures."""
    run, (photos, maps) = tmp_path / "run", folders
    shutil.copytree(depth_run / "model", run / "model")
    config = load_config(depth_run / "config.yaml")
    config.data.validation_crops, config.data.validation_region = 2, [0.5, 0.0, 1.0, 1.0]
    save_config(config, run / "config.yaml")
    sizes = encoded_sizes(monkeypatch)
    arguments = ["--maps", maps, "--metrics", "nll", "--json", tmp_path / "figures", "--batch", 2]
    assert main(["evaluate", str(run), str(photos), *map(str, arguments)]) == 0
    assert json.loads((tmp_path / "figures").read_text())["figures"]["nll_crops"] == 5
    assert sizes == [2, 2, 1] * 2  # maps, pictures


def test_likelihood_of_crops_of_another_size(depth_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(depth_run / "model", run / "model")
    config = load_config(depth_run / "config.yaml")
    config.data.resize = 8
    save_config(config, run / "config.yaml")
    for place, mode in (("photos", "RGB"), ("maps", "L")):
        (tmp_path / place).mkdir()
        Image.new(mode, (16, 16)).save(tmp_path / place / "a.png")
    places = [str(tmp_path / "photos"), "--maps", str(tmp_path / "maps")]
    arguments = ["evaluate", str(depth_run), *places, "--metrics", "nll"]
    assert main(arguments) == 0
    assert "nll_crops       4" in capsys.readouterr().out
    assert main([*arguments, "--size", "16"]) != 0
    assert "at most 16 codes, what the transformer was trained on, got 8 x 8" in (
        capsys.readouterr().err
    )
    # Told before the reconstructions are measured; pictures are resized for crops of that size.
    arguments = ["evaluate", str(run), *places, "--metrics", "psnr", "nll", "--size", "16"]
    assert main(arguments) != 0
    told = capsys.readouterr().err
    assert "got 8 x 8" in told and "measuring" not in told


def test_a_vqgan_of_maps_is_measured_on_maps(folders, tmp_path, capsys):
    photos, maps = folders
    vqgan = tiny_vqgan(CODES, 1)
    vqgan.save_pretrained(tmp_path / "run" / "vqgan")
    config = build_config(
        {
            "run_dir": str(tmp_path / "run"),
            "model": {"in_channels": 1, "out_ch": 1, "ch_mult": [1, 1]},
            "data": {
                "train": str(photos), "size": 8, "resize": None,
                "maps": {"kind": "depth", "folder": str(maps)},
            },
        }
    )  # fmt: skip
    # As on another machine, where it was trained from shards.
    config.data.train, config.data.shards = None, "somewhere/else-{0..9}.tar"
    config.data.maps.folder = "somewhere/else_depth-{0..9}.tar"
    save_config(config, tmp_path / "run" / "config.yaml")
    given = ["evaluate", tmp_path / "run", photos]
    figures = tmp_path / "figures.json"
    arguments = [*given, "--maps", maps, "--limit", 3, "--json", figures]
    assert main([str(argument) for argument in arguments]) == 0
    told = json.loads(figures.read_text())["figures"]
    x = depth_maps(sorted(maps.iterdir())[:3])
    with torch.no_grad():
        error = (vqgan(x)[0].clamp(-1, 1) - x).square().mean((1, 2, 3)) / 4
    assert told["maps"] == 3
    assert told["psnr"] == pytest.approx(float(-10 * error.log10().mean()), rel=1e-4)
    for more, message in (
        ([], "--maps must be 1 folders for depth maps, got 0"),
        (["--maps", maps, "--metrics", "lpips"], "--metrics are those of pictures"),
        (["--maps", maps, "--size", 8], "--size is for pictures"),
        (["--maps", maps, "--keep-pictures", tmp_path / "kept"], "--keep-pictures is for pictures"),
        (["--maps", tmp_path / "no"], "does not exist"),
    ):
        assert main([str(argument) for argument in (*given, *more)]) != 0
        assert message in capsys.readouterr().err


def test_evaluation_elsewhere_and_of_the_first_pictures(depth_run, folders, tmp_path, capsys):
    photos, maps = map(str, folders)
    run = tmp_path / "moved"
    shutil.copytree(depth_run, run)
    text = (run / "config.yaml").read_text()
    text = text.replace(photos, "no/photos").replace(f"validation_folder: {maps}", "")
    (run / "config.yaml").write_text(text)
    arguments = ["evaluate", str(run), photos, "--metrics", "nll", "--limit", "2"]
    assert main([*arguments, "--maps", maps]) == 0
    assert "nll_crops       2" in capsys.readouterr().out
    assert main(arguments) != 0
    assert "--maps must be given" in capsys.readouterr().err
