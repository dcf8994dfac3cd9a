"""The command line around shards: writing them from a folder, encoding them on several ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sample_pictures import write_pictures
from tiny_vqgan import tiny_vqgan

from vqgan_fast import cli
from vqgan_fast.data import ShardedPictures, list_shards, read_codes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", 5)
    return tmp_path / "pictures"


def test_shard_writes_what_it_says(folder, tmp_path, capsys):
    output = tmp_path / "new" / "photos"
    assert cli.main(["shard", str(folder), "--output", str(output), "--count", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("5 pictures in 2 shards")
    pattern = said.split("data.shards=")[1].split("'")[0]
    assert len(ShardedPictures(list_shards(pattern))) == 5


def test_shard_overwrites_with_force_alone(folder, tmp_path, capsys):
    output = str(tmp_path / "photos")
    taken = tmp_path / "photos-000000.tar"
    taken.write_text("precious")
    assert cli.main(["shard", str(folder), "--output", output]) == cli.USER_ERROR
    message = capsys.readouterr().err
    assert str(taken) in message and "--force" in message
    assert taken.read_text() == "precious"
    assert cli.main(["shard", str(folder), "--output", output, "--force"]) == 0
    assert len(ShardedPictures([taken])) == 5


def test_shard_leaves_no_part_of_a_longer_set(folder, tmp_path, capsys):
    argv = ["shard", str(folder), "--output", str(tmp_path / "photos"), "--count"]
    (tmp_path / "photos-old.tar").touch()  # is none of them
    assert cli.main([*argv, "3"]) == 0
    assert cli.main([*argv, "2", "--force"]) == cli.USER_ERROR
    assert f"{tmp_path / 'photos-000002.tar'} is there" in capsys.readouterr().err
    (tmp_path / "photos-000002.tar").unlink()
    assert cli.main([*argv, "2", "--force"]) == 0


@pytest.mark.parametrize(
    ("count", "message"), [("6", "the 5 pictures, got 6"), ("0", "between 1 and")]
)
def test_shard_refuses_a_count_that_cannot_be(folder, tmp_path, capsys, count, message):
    argv = ["shard", str(folder), "--output", str(tmp_path / "photos"), "--count", count]
    assert cli.main(argv) == cli.USER_ERROR
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tar"))


def test_shard_lists_the_pictures_that_are_not_there(folder, tmp_path, capsys):
    names = tmp_path / "names.txt"
    there = sorted(map(str, folder.iterdir()))
    names.write_text("\n".join(["gone.png", *there, "away/too.jpg"]))
    argv = ["shard", str(names), "--output", str(tmp_path / "photos")]
    assert cli.main(argv) == cli.USER_ERROR
    message = capsys.readouterr().err
    assert "2 of the 7 pictures cannot go into a shard" in message
    assert "\n  gone.png: no such file\n  away/too.jpg: no such file\n" in message
    assert not list(tmp_path.glob("photos*"))


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first_stage")
    tiny_vqgan().save_pretrained(folder / "vqgan")
    return folder


def test_tokenize_on_two_ranks_and_train(folder, first_stage, tmp_path, monkeypatch):
    shards, codes, one = tmp_path / "photos", tmp_path / "codes", tmp_path / "one.safetensors"
    assert cli.main(["shard", str(folder), "--output", str(shards), "--count", "2"]) == 0
    options = ["--crops", "3", "--device", "cpu", "--output"]
    pattern = f"{shards}-{{000000..000001}}.tar"
    command = ["tokenize", str(first_stage), pattern, *options, str(codes), "--per-file", "4"]
    # As torchrun would, with this process as the first rank: that saves importing torch twice.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    world = {**address, "WORLD_SIZE": "2"}
    other = subprocess.Popen(
        [sys.executable, "-m", "vqgan_fast", *command],
        env={**os.environ, **world, "RANK": "1", "OMP_NUM_THREADS": "1"},
    )
    with monkeypatch.context() as patch:
        for name, value in {**world, "RANK": "0"}.items():
            patch.setenv(name, value)
        assert cli.main(command) == 0
    assert other.wait(60) == 0
    assert cli.main(["tokenize", str(first_stage), str(folder), *options, str(one)]) == 0
    tokens = read_codes(codes).tokens
    assert tokens.shape == (15, 4, 4)
    assert torch.equal(tokens, read_codes(one).tokens)

    config = tmp_path / "transformer.yaml"
    config.write_text(
        "stage: transformer\n"
        "gpt: {n_layer: 1, n_head: 1, n_embd: 8}\n"
        "data: {batch_size: 2}\n"
        "optim: {steps: 1, learning_rate: 0.001}\n"
        "log: {tensorboard: false, progress: false}\n"
    )
    settings = [f"first_stage={first_stage}", f"data.codes={codes}", f"run_dir={tmp_path / 'gpt'}"]
    assert cli.main(["train", str(config), *settings]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "codes.pt"], "must end in .safetensors or be a folder, got codes.pt"),
        (["--output", "codes", "--force"], "--force is for a file"),
        (["--output", "codes", "--resize", "-5"], "--resize must be 0 or more, got -5"),
        (["--output", "codes", "--per-file", "0"], "--per-file must be at least 1, got 0"),
    ],
)
def test_tokenize_refuses(folder, first_stage, capsys, options, message):
    assert cli.main(["tokenize", str(first_stage), str(folder), *options]) == cli.USER_ERROR
    assert message in capsys.readouterr().err


def test_several_ranks_need_a_folder(folder, first_stage, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = ["tokenize", str(first_stage), str(folder), "--output", "codes.safetensors"]
    assert cli.main(argv) == cli.USER_ERROR
    assert "sets WORLD_SIZE without RANK" in capsys.readouterr().err
    for name, value in {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(argv) == cli.USER_ERROR
    assert "--output must be a folder for several processes" in capsys.readouterr().err
