"""What a run writes down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from vqgan_fast.train.config import LogConfig
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.meter import Meter
from vqgan_fast.train.run_log import RunLog, picture_grid, truncate_metrics

ALONE = Ranks(0, 1, torch.device("cpu"))
QUIET = LogConfig(tensorboard=False, progress=False)


def steps_in(file):
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_entries_beyond_the_checkpoint_and_half_lines_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        "".join(f'{{"step": {step}, "nll": 1.5}}\n' for step in (1, 2, 3)) + '{"step": 4,'
    )
    assert truncate_metrics(file, 2) == {"step": 2, "nll": 1.5}
    assert steps_in(file) == [1, 2]
    assert truncate_metrics(file, 0) == {}
    assert truncate_metrics(tmp_path / "none.jsonl", 5) == {}


def test_lines_that_are_no_entries_are_dropped_with_one_warning(tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "nll": 1.5}\n'
    file.write_bytes(whole + b'\xff\xfe\n5\n{}\n[1]\n{"step": "2"}\n\n{"step": null}\n' + whole)
    assert truncate_metrics(file, 2) == {"step": 1, "nll": 1.5}
    assert steps_in(file) == [1, 1]
    told = capsys.readouterr().err
    assert told.count("WARNING") == 1 and "no entry of a step are dropped: 6" in told
    file.write_bytes(whole + b'{"step": 2,')  # as a process that was killed leaves it
    assert truncate_metrics(file, 2) == {"step": 1, "nll": 1.5}
    assert capsys.readouterr().err == ""


def test_a_resumed_log_goes_on_behind_its_step(tmp_path):
    with RunLog(tmp_path, QUIET, 0, 9, 4, ALONE) as log:
        for step in (1, 2, 3):
            log.metrics(step, {"nll": float(step)})
    with RunLog(tmp_path, QUIET, 2, 9, 4, ALONE) as log:
        assert log.last["nll"] == 2.0
        log.metrics(3, {"nll": 30.0})
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2, 3]
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["nll"] == 30.0 and last["images_per_second"] > 0


def test_an_entry_before_the_first_step_has_no_speed(tmp_path):
    log = RunLog(tmp_path, QUIET, 20, 40, 8, ALONE)
    for step in (20, 30):
        log.metrics(step, {"nll": 1.0})
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["images_per_second" in entry for entry in entries] == [False, True]


def test_a_loss_that_is_no_number_is_written_as_json_has_it(tmp_path):
    """Also where an older version has written it otherwise."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "nll": NaN}\n')
    with RunLog(tmp_path, QUIET, 1, 9, 4, ALONE) as log:
        log.metrics(2, {"nll": math.inf, "lr": 1.0})
        assert log.last["nll"] == math.inf
    assert "NaN" not in file.read_text() and "Infinity" not in file.read_text()
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry["nll"] for entry in entries] == [None, None]
    assert entries[1]["lr"] == 1.0
    assert truncate_metrics(file, 1) == {"step": 1, "nll": None}


def test_other_ranks_write_nothing(tmp_path, capsys):
    with RunLog(tmp_path, LogConfig(), 0, 9, 4, Ranks(1, 2, torch.device("cpu"))) as log:
        log.warn("hello")
        log.metrics(1, {"nll": 1.0})
        log.pictures(1, [torch.zeros(1, 3, 2, 2, dtype=torch.uint8)])
        log.advance()
        log.farewell("finished")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_grid_has_a_row_for_each_version():
    rows = [torch.full((3, 3, 4, 5), value, dtype=torch.uint8) for value in (10, 200)]
    rows[0][1] = 77
    grid = picture_grid(rows, gap=1)
    assert grid.shape == (3, 9, 17)
    assert (grid[:, :4, 6:11] == 77).all()
    assert (grid[:, 5:, :5] == 200).all()
    assert (grid[:, 4] == 255).all() and (grid[:, :, 5] == 255).all()


def test_a_grid_is_whole_or_the_old_one(tmp_path, monkeypatch):
    rows = [torch.full((1, 3, 4, 4), value, dtype=torch.uint8) for value in (10, 200)]
    with RunLog(tmp_path, QUIET, 0, 9, 4, ALONE) as log:
        log.pictures(3, rows)
        (file,) = (tmp_path / "images").iterdir()
        before = file.read_bytes()

        def full_disk(self: Image.Image, path: Path, **options: object) -> None:
            Path(path).write_bytes(b"half a")
            raise OSError("disk full")

        monkeypatch.setattr(Image.Image, "save", full_disk)
        with pytest.raises(OSError, match="disk full"):
            log.pictures(3, rows)
    assert {file: file.read_bytes() for file in (tmp_path / "images").iterdir()} == {file: before}


def test_the_meter_averages_each_name_over_the_times_it_was_given():
    meter = Meter(["a", "b", "c"], torch.device("cpu"))
    meter.add({"a": torch.tensor(1.0)})
    meter.add({"b": torch.tensor(5.0), "a": torch.tensor(2.0, dtype=torch.bfloat16)})
    assert meter.means(ALONE) == {"a": 1.5, "b": 5.0}
    assert meter.means(ALONE) == pytest.approx({"a": 1.5, "b": 5.0})  # reading changes nothing
    meter.reset()
    assert meter.means(ALONE) == {}
