"""The share of time that training waits for data."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import vqgan_run

from vqgan_fast.train import data_wait, train_vqgan
from vqgan_fast.train.data_wait import DataWait
from vqgan_fast.train.distributed import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_the_share_is_what_next_took_of_all_the_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(data_wait, "time", clock)

    def batches():
        for number in range(4):
            clock.now += 3
            yield number

    wait = DataWait(ALONE)
    seen = []
    for number in wait.watch(batches()):
        seen.append(number)
        clock.now += 1  # the step
        if number == 1:
            assert wait.share() == pytest.approx(6 / 8)
            clock.now += 8  # a checkpoint
    assert seen == [0, 1, 2, 3]
    assert wait.share() == pytest.approx(6 / 16)
    assert wait.share() == 0  # nothing has happened since


def test_a_run_logs_it(pictures, tmp_path):
    train_vqgan(vqgan_run(pictures, tmp_path / "run", optim__steps=2))
    entries = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(0 < json.loads(entry)["data_wait"] < 1 for entry in entries)
