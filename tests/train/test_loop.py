"""What comes after a step: figures, checkpoints and the exported model, when something fails there.

Ranks that lose each other are in test_faults.py.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import asdict

import pytest
from launches import assert_same_run, run_launches
from safetensors import SafetensorError
from tiny import read_metrics, transformer_run, vqgan_run

from vqgan_fast.models import VQGAN
from vqgan_fast.train import ConfigError, TrainingInterrupted, stage1, stopping, train_vqgan
from vqgan_fast.train.run_log import RunLog
from vqgan_fast.train.together import RunWriteError

STEPS = {
    "data__size": 16, "optim__steps": 6, "log__every": 2, "log__checkpoint_every": 3,
    "log__images_every": 2, "data__validation_crops": 2,
}  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process."""


def run(pictures, run_dir, **changes):
    return vqgan_run(pictures, run_dir, **{**STEPS, "data__validation": str(pictures), **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures):
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    train_vqgan(run(pictures, run_dir))
    return run_dir


def raise_at(monkeypatch, owner, name, number, error):
    """Raise an error in the `number`-th call of a function, the first is 1."""
    original, calls = getattr(owner, name), []

    def counted(*arguments, **more):
        calls.append(1)
        if len(calls) == number:
            raise error
        return original(*arguments, **more)

    monkeypatch.setattr(owner, name, counted)


def signal_at(monkeypatch, step):
    """Send this process a SIGTERM while the given step runs."""
    advance, count = RunLog.advance, []

    def advance_and_signal(self):
        count.append(1)
        advance(self)
        if len(count) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "advance", advance_and_signal)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (VQGAN, "save_pretrained", 2),  # that of the last step
        (stage1, "reconstruction_figures", 3),
        (stage1, "pictures", 3),
    ],
)
def test_a_run_killed_behind_its_last_checkpoint_still_ends_whole(
    tmp_path, pictures, undisturbed, monkeypatch, owner, name, number
):
    with monkeypatch.context() as patched:
        raise_at(patched, owner, name, number, Killed())
        with pytest.raises(Killed):
            train_vqgan(run(pictures, tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "step_000006").is_dir()
    train_vqgan(run(pictures, tmp_path / "run", resume=True))
    assert_same_run(tmp_path / "run", undisturbed)
    images = [sorted(path.name for path in (d / "images").iterdir())
              for d in (tmp_path / "run", undisturbed)]  # fmt: skip
    assert images[0] == images[1]


def test_an_interval_that_is_logged_is_not_averaged_again(tmp_path, pictures, monkeypatch):
    """Resumed with other intervals, whether the last entry was written or not."""
    given = {"optim__steps": 4, "log__every": 1, "log__checkpoint_every": 4}
    train_vqgan(run(pictures, tmp_path / "single", **{**given, "optim__steps": 6}))
    single = {entry["step"]: entry["rec_loss"] for entry in read_metrics(tmp_path / "single")}
    expected = {2: (1, 2), 4: (3, 4), 6: (5, 6)}
    for name in ("logged", "killed"):
        with monkeypatch.context() as patched:
            if name == "killed":
                raise_at(patched, stage1, "reconstruction_figures", 2, Killed())
            with suppress(Killed):
                train_vqgan(run(pictures, tmp_path / name, **{**given, "log__every": 2}))
        changes = {**given, "optim__steps": 6, "log__every": 3, "resume": True}
        train_vqgan(run(pictures, tmp_path / name, **changes))
        entries = read_metrics(tmp_path / name)
        assert {entry["step"]: entry["rec_loss"] for entry in entries} == pytest.approx(
            {step: sum(single[i] for i in steps) / 2 for step, steps in expected.items()}, rel=1e-5
        )


def test_what_is_whole_is_not_written_again(tmp_path, pictures, monkeypatch):
    train_vqgan(run(pictures, tmp_path / "run"))
    for owner, name in ((VQGAN, "save_pretrained"), (stage1, "reconstruction_figures")):
        raise_at(monkeypatch, owner, name, 1, AssertionError())
    assert train_vqgan(run(pictures, tmp_path / "run", resume=True)).step == 6


def test_a_stop_between_two_entries_needs_no_held_out_figures(tmp_path, pictures, monkeypatch):
    signal_at(monkeypatch, 1)
    for name in ("reconstruction_figures", "pictures"):
        raise_at(monkeypatch, stage1, name, 1, AssertionError())
    with pytest.raises(TrainingInterrupted):
        train_vqgan(run(pictures, tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "step_000001").is_dir()
    assert [entry["step"] for entry in read_metrics(tmp_path / "run")] == [1]


def test_a_stop_at_an_entry_writes_the_checkpoint_before_held_out_figures(
    tmp_path, pictures, undisturbed, monkeypatch
):
    with monkeypatch.context() as patched:
        signal_at(patched, 4)
        raise_at(patched, stage1, "reconstruction_figures", 2, Killed())
        with pytest.raises(Killed):
            train_vqgan(run(pictures, tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "step_000004").is_dir()
    train_vqgan(run(pictures, tmp_path / "run", resume=True))
    assert_same_run(tmp_path / "run", undisturbed)


def test_the_time_allowed_counts_figures_that_are_still_to_come(tmp_path, pictures, monkeypatch):
    class Clock:
        now = 0.0
        monotonic = staticmethod(lambda: Clock.now)

    def twenty_minutes_of_figures(*arguments):
        Clock.now += 1200
        return {}

    monkeypatch.setattr(stopping, "time", Clock)
    monkeypatch.setattr(stage1, "reconstruction_figures", twenty_minutes_of_figures)
    # Figures after steps 2 and 4 end at 40 minutes, and those after step 6 would at 60.
    result = train_vqgan(run(pictures, tmp_path / "run", optim__max_minutes=50.0))
    assert result.step == 5 and Clock.now == 2400


def test_a_model_that_cannot_be_written_leaves_a_checkpoint_that_is_whole(
    tmp_path, pictures, monkeypatch
):
    full = SafetensorError("Error while serializing: I/O error: No space left on device")
    raise_at(monkeypatch, VQGAN, "save_pretrained", 1, full)
    told = "the model .*run/vqgan cannot be written: .*No space.* of step 3 is whole.*resume=true"
    with pytest.raises(RunWriteError, match=told):
        train_vqgan(run(pictures, tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "step_000003").is_dir()


@pytest.fixture(scope="module")
def launched(tmp_path_factory, pictures, first_stage):
    """The folder of all runs, what their launches ended with, and what was said."""
    folder = tmp_path_factory.mktemp("launches")

    def config(name, **changes):
        given = {
            "data__train": str(pictures), "data__global_batch_size": 6, "gpt__n_layer": 1,
            "optim__steps": 12, "log__every": 5, "log__checkpoint_every": 7,
        }  # fmt: skip
        return asdict(transformer_run(first_stage, folder / name, **{**given, **changes}))

    often = {"log__checkpoint_every": 1, "log__images_every": 1}
    launches = {
        "undisturbed": {"config": config("undisturbed")},
        "killed": {"config": config("changed"), "faults": [[0, 1, "kill in step", 9]]},
        "changed": {"config": config("changed", resume=True), "ranks": 3},
        "in export": {
            "config": config("export", **often), "faults": [[0, 0, "full disk in export", 2]],
        },
        "in pictures": {
            "config": config("pictures", **often), "faults": [[0, 0, "full disk in pictures", 2]],
        },
        "at the start": {
            "config": config("export", **often, resume=True),
            "faults": [[0, 0, "full disk at the start", 1]],
        },
        "in the log": {
            "config": config("log", log__every=1), "faults": [[0, 0, "full disk in the log", 2]],
        },
    }  # fmt: skip
    outcomes, told = run_launches(folder, list(launches.values()))
    return folder, dict(zip(launches, outcomes, strict=True)), told


def test_an_interval_of_the_log_goes_on_on_another_number_of_ranks(launched):
    folder, outcomes, told = launched
    assert outcomes["undisturbed"] == outcomes["changed"] == "done", told
    assert told.count("changed/checkpoints/step_000007") == 1
    changed, expected = read_metrics(folder / "changed"), read_metrics(folder / "undisturbed")
    assert [entry["step"] for entry in changed] == [5, 10, 12]
    for entry, one in zip(changed, expected, strict=True):
        assert entry == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ("in export", "the model {}/export/model cannot be written: "),
        ("in pictures", "{}/pictures/images/step_000002.png cannot be written: "),
        ("at the start", "{}/export/config.yaml cannot be written: "),
        ("in the log", "{}/log/metrics.jsonl cannot be written: [Errno 27] File too large"),
    ],
)
def test_where_rank_0_cannot_write_all_ranks_end_and_say_why(launched, launch, message):
    folder, outcomes, told = launched
    assert "exitcode  : 2" in outcomes[launch], told
    for rank in (0, 1):
        assert f"rank {rank}: RunWriteError: {message.format(folder)}" in told


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_whose_checkpoints_are_gone_does_not_start_anew(tmp_path, pictures, undisturbed):
    """Neither over its exported model nor over a log that is longer than up to the first one."""
    whole = tmp_path / "run"
    shutil.copytree(undisturbed, whole)
    shutil.rmtree(whole / "checkpoints")
    for gone, left in (
        ((), "run/vqgan and .*metrics.jsonl up to step 6"),
        (("vqgan",), r"replace .*metrics.jsonl up to step 6\."),
    ):
        for name in gone:
            shutil.rmtree(whole / name)
        before = content(whole)
        with pytest.raises(ConfigError, match=f"run/checkpoints holds no checkpoint, .*{left}"):
            train_vqgan(run(pictures, whole, resume=True))
        (whole / ".lock").unlink(missing_ok=True)
        assert content(whole) == before


def test_a_run_without_its_first_checkpoint_yet_starts_anew(
    tmp_path, pictures, undisturbed, monkeypatch
):
    """It was killed at the step of the first one, or at the last before it."""
    killed, broken = tmp_path / "killed", tmp_path / "broken"
    with monkeypatch.context() as patched:
        raise_at(patched, RunLog, "advance", 3, Killed())
        with pytest.raises(Killed):
            train_vqgan(run(pictures, killed))
    assert [entry["step"] for entry in read_metrics(killed)] == [2]
    given = {"log__every": 3, "log__checkpoint_every": 3}
    with pytest.raises(FloatingPointError):
        train_vqgan(run(pictures, broken, **given, optim__learning_rate=1e30))
    assert [entry["step"] for entry in read_metrics(broken)] == [3]
    assert train_vqgan(run(pictures, broken, **given, resume=True)).step == 6
    train_vqgan(run(pictures, killed, resume=True))
    assert_same_run(killed, undisturbed)
