"""The command line of shards: writing them from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_pictures import write_pictures

from vqgan_fast import cli
from vqgan_fast.data import ShardedPictures, list_shards


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


@pytest.mark.parametrize(
    ("count", "message"), [("6", "the 5 pictures, got 6"), ("0", "between 1 and")]
)
def test_shard_refuses_a_count_that_cannot_be(folder, tmp_path, capsys, count, message):
    argv = ["shard", str(folder), "--output", str(tmp_path / "photos"), "--count", count]
    assert cli.main(argv) == cli.USER_ERROR
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tar"))
