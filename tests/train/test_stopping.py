"""Signals and time limits."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch

from vqgan_fast.train import TrainingInterrupted
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.stopping import StopRequest

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest(None, ALONE) as stop:
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same Ctrl-C, passed on by torchrun
        assert stop.agreed()
    assert signal.getsignal(number) == before
    assert stop.reason() == f"stopped by {number.name}"
    with pytest.raises(TrainingInterrupted) as interrupted:
        stop.raise_if_interrupted()
    assert interrupted.value.code == 128 + number


def test_a_later_ctrl_c_ends_at_once(monkeypatch):
    with StopRequest(None, ALONE) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        later = time.monotonic() + 5
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal_number == signal.SIGINT


def test_time_is_over(monkeypatch):
    with StopRequest(2.0, ALONE) as stop:
        assert not stop.agreed()
        later = time.monotonic() + 121
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert stop.agreed()
    assert "max_minutes are over" in stop.reason()
    stop.raise_if_interrupted()


def test_training_in_another_thread_needs_no_handlers():
    results = []

    def run():
        with StopRequest(None, ALONE) as stop:
            results.append(stop.agreed())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [False]
