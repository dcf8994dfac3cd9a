"""The folder of a run: one process at a time, and what a start leaves behind is no run."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tiny import vqgan_run

from vqgan_fast.train import ConfigError, launch, run_folder, run_lock, train_vqgan
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.run_folder import create_run_folder, find_checkpoint
from vqgan_fast.train.run_lock import LOCK, locked

ALONE = Ranks(0, 1, torch.device("cpu"))
HOLD = """
import os, sys, time, torch
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.run_lock import locked
with locked(sys.argv[1], Ranks(0, 1, torch.device("cpu"))):
    if os.fork():  # the other one is left, as the worker of a loader is
        print("locked", flush=True)
    time.sleep(30)
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.2)


def test_a_second_run_in_the_folder_is_refused(tmp_path, pictures, impatient):
    expected = rf"another process \(host .*, pid {os.getpid()}\) is training in run_dir"
    for resume in (False, True):
        with locked(tmp_path, ALONE), pytest.raises(ConfigError, match=expected):
            train_vqgan(vqgan_run(pictures, tmp_path, resume=resume))
    assert list(tmp_path.iterdir()) == []
    assert train_vqgan(vqgan_run(pictures, tmp_path, optim__steps=1)).step == 1
    assert not (tmp_path / LOCK).exists()


def test_the_lock_goes_with_a_killed_process(tmp_path, impatient):
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert holding.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match=f"pid {holding.pid}"), locked(tmp_path, ALONE):
            pass
        holding.kill()
        holding.wait()
        with locked(tmp_path, ALONE):
            assert (tmp_path / LOCK).read_text().endswith(f"pid {os.getpid()}")
    finally:
        os.killpg(holding.pid, signal.SIGKILL)
        holding.stdout.close()


def test_a_process_that_ends_is_waited_for(tmp_path, capsys):
    inside, folder = threading.Event(), tmp_path / "runs" / "run"

    def hold():
        with locked(folder, ALONE):
            inside.set()
            time.sleep(0.5)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait()
    with locked(folder, ALONE):  # which the other one has removed
        other.join()
        assert folder.is_dir()
    assert "waiting for its end" in capsys.readouterr().err
    assert not (folder / LOCK).exists()


def test_without_locks_in_the_file_system_training_goes_on(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with locked(tmp_path, ALONE), locked(tmp_path, ALONE):
        pass
    assert "has no locks (No locks available)" in capsys.readouterr().err


def test_a_lock_is_not_left_behind_where_its_note_cannot_be_written(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("ftruncate", "pwrite"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            with locked(tmp_path / name, ALONE):
                assert (tmp_path / name / LOCK).read_text() == ""
        with locked(tmp_path / name, ALONE):
            assert "pid" in (tmp_path / name / LOCK).read_text()


def test_an_error_behind_the_lock_lets_it_go(tmp_path, monkeypatch, impatient):
    def stale(*arguments):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(run_lock, "_is_at", stale)
        with pytest.raises(ConfigError, match=r"cannot be used: .*Stale"), locked(tmp_path, ALONE):
            pass
    with locked(tmp_path, ALONE):
        pass


def test_an_error_that_stays_is_no_other_process(tmp_path, monkeypatch, impatient, capsys):
    def gone(*arguments):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "somewhere")

    monkeypatch.setattr(os, "open", gone)
    with pytest.raises(ConfigError, match=r"cannot be used: .*somewhere"), locked(tmp_path, ALONE):
        pass
    assert "another process" not in capsys.readouterr().err


def test_the_lock_of_another_machine_is_waited_for_and_not_for_ever(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    monkeypatch.setattr(run_lock, "PATIENCE_ELSEWHERE", 0.5)
    monkeypatch.setattr(run_lock, "SILENCE", 0.2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1234")
    launch.note_launch(tmp_path)
    with locked(tmp_path, ALONE):
        with pytest.raises(ConfigError, match="is training in"), locked(tmp_path, ALONE):
            pass  # this machine's process lives
        capsys.readouterr()
        (tmp_path / LOCK).write_text("host lost, pid 7")
        with locked(tmp_path, ALONE):
            pass
        told = capsys.readouterr().err
        assert told.count("(host lost, pid 7) is training in") > 1
        assert "WARNING" in told and "without the lock" in told
        assert (tmp_path / LOCK).exists()  # it is the other one's
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
        with pytest.raises(ConfigError, match="host lost, pid 7"), locked(tmp_path, ALONE):
            pass
        impatient = Ranks(0, 1, torch.device("cpu"), timedelta(seconds=0.2))
        monkeypatch.setattr(run_lock, "PATIENCE_ELSEWHERE", 3600.0)
        with pytest.raises(ConfigError, match="host lost, pid 7"), locked(tmp_path, impatient):
            pass


def test_a_run_dir_that_can_be_no_folder(tmp_path, pictures):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for name, reason in (
        ("link", "is a link to .*nowhere, which is not there"),
        ("file", "is a file"),
        ("file/run", "cannot be used: .*Not a directory"),
        ("link/run", "is a link to .*nowhere, which is not there"),
    ):
        with pytest.raises(ConfigError, match=f"run_dir .*{name}.* {reason}"):
            train_vqgan(vqgan_run(pictures, tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "left",
    [[".launch.unfinished"], [".launch"], [".launch", ".config.yaml.7.tmp"], [".lock"],
     ["checkpoints/"], [".launch", "checkpoints/"]],
)  # fmt: skip
def test_a_folder_that_a_start_left_behind_is_new(tmp_path, pictures, left, resume):
    for name in left:
        (tmp_path / name).mkdir() if name[-1] == "/" else (tmp_path / name).write_text("another")
    assert find_checkpoint(vqgan_run(pictures, tmp_path, resume=resume), ALONE) is None


@pytest.mark.parametrize("name", ["checkpoints/step_000001", "notes", "config.yaml", ".hidden"])
def test_a_folder_with_anything_else_is_not(tmp_path, pictures, name):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not empty"):
        find_checkpoint(vqgan_run(pictures, tmp_path), ALONE)


@pytest.mark.parametrize("step", ["note_launch", "save_config"])
def test_a_launch_that_dies_at_its_start_is_started_again(tmp_path, pictures, monkeypatch, step):
    class KilledError(Exception):
        pass

    def kill(*arguments):
        raise KilledError

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1234")
    config = vqgan_run(pictures, tmp_path / "run")
    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, step, kill)
        with pytest.raises(KilledError):
            create_run_folder(config, ALONE)
    assert find_checkpoint(config, ALONE) is None
    create_run_folder(config, ALONE)
    assert find_checkpoint(config, ALONE) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    with pytest.raises(ConfigError, match="is not empty"):
        find_checkpoint(config, ALONE)


def test_torchrun_of_the_same_number_is_another_launch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with subprocess.Popen(["sleep", "30"]) as first:
        monkeypatch.setattr(os, "getppid", lambda: first.pid)
        launch.note_launch(tmp_path)
        assert launch.is_restart(tmp_path)
        first.kill()
    read_text = Path.read_text

    def later(file, *arguments, **more):
        """As if another process had the number, which has brackets in its name."""
        if str(file) == f"/proc/{first.pid}/stat":
            return f"{first.pid} (a) b (c)) S" + " 1" * 18 + " 99" + " 1" * 30
        return read_text(file, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", later)
    assert not launch.is_restart(tmp_path)
    assert " 99 " in launch.launch_id()
