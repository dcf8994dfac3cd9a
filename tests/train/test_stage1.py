"""Stage 1: it learns, it resumes to the bit, it stops when told, and it loses nothing."""

from __future__ import annotations

import math
import os
import signal
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sample_pictures import write_pictures, write_truncated_jpeg
from tiny import read_metrics, vqgan_run

from vqgan_fast.data import DataError
from vqgan_fast.losses import PerceptualWeightsError
from vqgan_fast.models import VQGAN
from vqgan_fast.train import ConfigError, TrainingInterrupted, stopping, train_vqgan
from vqgan_fast.train.run_log import RunLog

# All that a checkpoint must bring back: both optimizers, averages, counts of the codebook, the
# random state (dropout), the place in the epoch, and sums of a log interval that is half over.
EVERYTHING = {
    "model__dropout": 0.1, "loss__disc_start": 2, "optim__accumulate": 2, "optim__ema_decay": 0.8,
    "codebook__restart_dead_codes": True, "codebook__restart_after": 3, "optim__steps": 8,
    "codebook__usage_window": 4, "log__every": 2, "log__checkpoint_every": 3,
}  # fmt: skip


def weights(run_dir):
    return load_file(run_dir / "vqgan" / "model.safetensors")


def assert_same_end(run_dir, other):
    """The same last entries of the log and the same model, bit for bit."""
    ours, theirs = read_metrics(run_dir), read_metrics(other)
    assert ours[-2:] == theirs[-2:]
    assert [entry["step"] for entry in ours[-2:]] == [6, 8]
    expected = weights(other)
    assert all(torch.equal(value, expected[key]) for key, value in weights(run_dir).items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, pictures):
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_vqgan(vqgan_run(pictures, run_dir, **EVERYTHING))
    return run_dir


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory, pictures):
    run_dir = tmp_path_factory.mktemp("four_steps") / "run"
    train_vqgan(vqgan_run(pictures, run_dir))
    return run_dir


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def interrupt_at(monkeypatch, step, number=signal.SIGTERM):
    """Send this process a signal while the given step runs."""
    advance = RunLog.advance
    count = []

    def advance_and_signal(self):
        count.append(1)
        advance(self)
        if len(count) == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "advance", advance_and_signal)


def test_it_learns(tmp_path, pictures):
    result = train_vqgan(
        vqgan_run(pictures, tmp_path / "run", optim__steps=30, loss__disc_start=1000, log__every=5)
    )
    entries = read_metrics(tmp_path / "run")
    assert result.step == 30
    assert {key: result.metrics[key] for key in entries[-1]} == entries[-1]
    assert entries[-1]["rec_loss"] < 0.75 * entries[0]["rec_loss"]


def test_what_a_run_leaves_behind(uninterrupted):
    names = sorted(path.name for path in uninterrupted.iterdir())
    assert names == ["checkpoints", "config.yaml", "images", "metrics.jsonl", "vqgan"]
    checkpoints = sorted(path.name for path in (uninterrupted / "checkpoints").iterdir())
    assert checkpoints == ["step_000003", "step_000006", "step_000008"]
    grid = np.asarray(Image.open(uninterrupted / "images" / "step_000008.png"))
    assert grid.shape == (2 * 34 - 2, 8 * 34 - 2, 3)
    model = VQGAN.from_pretrained(uninterrupted / "vqgan")
    assert model(torch.zeros(1, 3, 32, 32))[0].shape == (1, 3, 32, 32)
    (first, *_, last) = read_metrics(uninterrupted)
    assert first["disc_factor"] == 0 and "disc_loss" not in first
    assert last["disc_factor"] == 1 and last["disc_loss"] > 0
    assert 0 < last["codebook_usage"] <= 1 <= last["perplexity"] <= 32


def test_a_signal_ends_the_step_and_the_resumed_run_is_the_same(
    tmp_path, pictures, uninterrupted, monkeypatch, capsys
):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5)
        with pytest.raises(TrainingInterrupted) as stopped:
            train_vqgan(vqgan_run(pictures, run_dir, **EVERYTHING))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    told = capsys.readouterr().err
    assert "stopped by SIGTERM at step 5" in told and "resume=true" in told
    assert (run_dir / "checkpoints" / "step_000005").is_dir()
    result = train_vqgan(vqgan_run(pictures, run_dir, resume=True, **EVERYTHING))
    assert result.step == 8
    assert "resuming from" in capsys.readouterr().err
    assert_same_end(run_dir, uninterrupted)


def test_a_truncated_checkpoint_gives_way_to_the_previous_one(
    tmp_path, pictures, uninterrupted, capsys
):
    run_dir = tmp_path / "run"
    train_vqgan(vqgan_run(pictures, run_dir, **{**EVERYTHING, "optim__steps": 6}))
    (newest,) = (run_dir / "checkpoints" / "step_000006").glob("*.distcp")
    os.truncate(newest, 1000)
    capsys.readouterr()
    train_vqgan(vqgan_run(pictures, run_dir, resume=True, **EVERYTHING))
    told = capsys.readouterr().err
    assert "step_000006 is damaged" in told and "has 1000 bytes of" in told
    assert "resuming from" in told and "step_000003" in told
    assert_same_end(run_dir, uninterrupted)
    assert [entry["step"] for entry in read_metrics(run_dir)] == [2, 4, 6, 8]


def test_the_time_allowed_ends_a_run_with_a_checkpoint(tmp_path, pictures, monkeypatch, capsys):
    later, advance = [], RunLog.advance

    def twenty_minutes_later(self):
        advance(self)
        later.append(1200)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(later))
    monkeypatch.setattr(stopping, "time", clock)
    monkeypatch.setattr(RunLog, "advance", twenty_minutes_later)
    changes = {"optim__max_minutes": 50.0, "optim__steps": 9, "log__every": 50}
    result = train_vqgan(vqgan_run(pictures, tmp_path / "run", **changes))
    assert result.step == 3 and result.metrics["step"] == 3
    checkpoints = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert checkpoints == {"step_000000", "step_000003"}
    assert (tmp_path / "run" / "vqgan" / "config.json").is_file()
    told = capsys.readouterr().err
    assert "max_minutes are over at step 3" in told and "WARNING" not in told


@pytest.mark.parametrize("background", [False, True])
def test_a_time_too_short_for_a_checkpoint_is_refused_at_the_start(
    tmp_path, pictures, four_steps, capsys, background
):
    changes = {"optim__max_minutes": 1e-9, "log__checkpoint_in_background": background}
    config = vqgan_run(pictures, tmp_path / "run", **changes)
    refused = "max_minutes = 1e-09 is shorter than one checkpoint, which takes .* allow more time"
    with pytest.raises(ConfigError, match=f"{refused} and go on with resume=true"):
        train_vqgan(config)
    assert "writing a checkpoint of" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    config.resume = True
    with pytest.raises(ConfigError, match=refused):
        train_vqgan(config)
    config.optim.max_minutes = None  # from step 0, as a run that was not interrupted
    assert train_vqgan(config).step == 4
    assert read_metrics(tmp_path / "run") == read_metrics(four_steps)
    expected = weights(four_steps)
    assert all(torch.equal(v, expected[key]) for key, v in weights(tmp_path / "run").items())


def test_crops_too_small_for_a_network_of_the_loss_are_refused_at_the_start(tmp_path, pictures):
    run = tmp_path / "run"
    config = vqgan_run(pictures, run, data__size=8, loss__disc_start=3)
    with pytest.raises(ConfigError, match=r"data\.size must be at least"):
        train_vqgan(config)
    assert not run.exists()
    config.optim.steps = 2  # the discriminator does not start
    config.loss.perceptual_weight, config.loss.perceptual_weights = 1.0, "random"
    with pytest.raises(ConfigError, match=r"data\.size must be at least 16, .*perceptual_net"):
        train_vqgan(config)
    assert not run.exists()
    config.loss.perceptual_weight = 0.0
    train_vqgan(config)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config.optim.steps, config.resume = 4, True
    with pytest.raises(ConfigError, match=r"data\.size must be at least"):
        train_vqgan(config)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stage: [vqgan", "its config.yaml cannot be read"),
        ("", "it names no stage"),
        ("- 1", "its config.yaml cannot be read"),
        ("stage: transformer", "is a run of stage: transformer and cannot be resumed as vqgan"),
    ],
)
def test_a_run_whose_configuration_is_damaged_is_not_resumed(tmp_path, pictures, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        train_vqgan(vqgan_run(pictures, tmp_path, resume=True))


def test_a_run_resumed_with_other_pictures_is_told_so(tmp_path, capsys):
    folder, run_dir = tmp_path / "pictures", tmp_path / "run"
    write_pictures(folder, 5)
    train_vqgan(vqgan_run(folder, run_dir, optim__steps=1))
    folder = folder.rename(tmp_path / "moved")
    train_vqgan(vqgan_run(folder, run_dir, optim__steps=2, resume=True))
    assert "training data" not in capsys.readouterr().err
    write_pictures(folder, 6)
    train_vqgan(vqgan_run(folder, run_dir, optim__steps=3, resume=True))
    told = capsys.readouterr().err
    assert "WARNING: the training data are 6 pictures, " in told
    assert "step_000002 was written they were 5 pictures, " in told


def test_a_run_never_overwrites(tmp_path, pictures, uninterrupted):
    def content():
        files = sorted(path for path in uninterrupted.rglob("*") if path.is_file())
        return [(path, zlib.crc32(path.read_bytes())) for path in files]

    before = content()
    with pytest.raises(ConfigError, match=r"is not empty.*resume=true"):
        train_vqgan(vqgan_run(pictures, uninterrupted, **EVERYTHING))
    with pytest.raises(ConfigError, match=r"model\.ch = 32 and cannot be resumed with 64"):
        train_vqgan(vqgan_run(pictures, uninterrupted, resume=True, **EVERYTHING, model__ch=64))
    assert content() == before
    (tmp_path / "notes.txt").write_text("not a run")
    with pytest.raises(ConfigError, match=r"holds no config\.yaml of a run"):
        train_vqgan(vqgan_run(pictures, tmp_path, resume=True))


def test_resume_starts_an_empty_folder_and_ends_a_finished_run(tmp_path, pictures):
    config = vqgan_run(pictures, tmp_path / "run", resume=True, optim__steps=1)
    assert train_vqgan(config).step == 1
    again = train_vqgan(config)
    assert again.step == 1 and again.metrics["step"] == 1


def test_an_unreadable_picture_is_skipped_counted_and_told_once(tmp_path, capsys):
    write_pictures(tmp_path / "pictures", 3)
    cut = write_truncated_jpeg(tmp_path / "pictures" / "cut.jpg")
    result = train_vqgan(vqgan_run(tmp_path / "pictures", tmp_path / "run", optim__steps=3))
    assert result.metrics["skipped_images"] == 1
    assert capsys.readouterr().err.count(f"skipped {cut}") == 1


def test_a_folder_without_a_readable_picture_leaves_no_run_behind(tmp_path):
    (tmp_path / "pictures").mkdir()
    write_truncated_jpeg(tmp_path / "pictures" / "cut.jpg")
    with pytest.raises(DataError, match="none of the 1 pictures can be read"):
        train_vqgan(vqgan_run(tmp_path / "pictures", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_missing_perceptual_weights_stop_the_run_with_advice(tmp_path, pictures, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    config = vqgan_run(pictures, tmp_path / "run", loss__perceptual_weight=1.0)
    with pytest.raises(PerceptualWeightsError, match="perceptual_weights: random"):
        train_vqgan(config)
    assert not (tmp_path / "run").exists()


def _no_network(*arguments, **more):
    raise OSError("no network")


def test_a_collapse_is_told_loudly(tmp_path, pictures, capsys):
    changes = {"codebook__usage_window": 2, "codebook__collapse_usage": 1.0, "optim__steps": 2}
    train_vqgan(vqgan_run(pictures, tmp_path / "run", **changes))
    told = capsys.readouterr().err
    assert told.count("CODEBOOK COLLAPSE") == 1  # not before the window is full
    assert "of the 32 codes" in told and "codebook.restart_dead_codes=true" in told


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path, pictures, monkeypatch):
    def break_a_weight(self, modules, *rest):
        with torch.no_grad():
            next(iter(modules.parameters()))[0] = math.inf

    monkeypatch.setattr("torch.optim.swa_utils.AveragedModel.update_parameters", break_a_weight)
    config = vqgan_run(pictures, tmp_path / "run", optim__ema_decay=0.5, log__every=50)
    config.optim.steps, config.log.checkpoint_every = 9, 1
    with pytest.raises(FloatingPointError, match=r"model/encoder\.\S+ is nan at step 1;"):
        train_vqgan(config)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path, pictures):
    config = vqgan_run(pictures, tmp_path / "run", optim__learning_rate=1e30, optim__steps=20)
    config.log.checkpoint_every = 1
    with pytest.raises(FloatingPointError, match=r"total_loss is \S+ at step \d+; .*learning_rate"):
        train_vqgan(config)
    steps = [entry["step"] for entry in read_metrics(tmp_path / "run")]
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert newest.name == f"step_{steps[-1] - 1:06d}"


def test_accumulated_batches_are_one_batch(tmp_path, pictures, double_precision):
    # Without the discriminator, whose batch statistics are those of each part. In double precision:
    # in single, sums in another order can choose another code, and with it another loss.
    off = {
        "loss__disc_factor": 0.0, "optim__steps": 3,
        "codebook__restart_dead_codes": True, "codebook__restart_after": 1,
    }  # fmt: skip
    train_vqgan(vqgan_run(pictures, tmp_path / "whole", **off))
    parts = {"data__batch_size": 1, "optim__accumulate": 4}
    train_vqgan(vqgan_run(pictures, tmp_path / "parts", **off, **parts))
    for whole, part in zip(
        read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts"), strict=True
    ):
        assert part == pytest.approx(whole, rel=1e-9)
        assert part["restarted_codes"] > 0


def test_averaged_weights_are_the_ones_exported(tmp_path, pictures):
    for name, decay in (("plain", None), ("last", 0.0), ("half", 0.5), ("one", None)):
        steps = 1 if name == "one" else 2
        train_vqgan(
            vqgan_run(pictures, tmp_path / name, optim__ema_decay=decay, optim__steps=steps)
        )
    plain, last, half, one = (weights(tmp_path / name) for name in ("plain", "last", "half", "one"))
    for key, value in plain.items():
        assert torch.equal(value, last[key])
        # The average starts from the weights after the first step.
        torch.testing.assert_close(half[key], one[key].lerp(value, 0.5))
    assert not torch.equal(plain["encoder.conv_in.weight"], half["encoder.conv_in.weight"])


def test_bf16_stays_near_fp32(tmp_path, pictures):
    for precision in ("fp32", "bf16"):
        run_dir = tmp_path / precision
        train_vqgan(vqgan_run(pictures, run_dir, optim__precision=precision, optim__steps=3))
    for full, half in zip(
        read_metrics(tmp_path / "fp32"), read_metrics(tmp_path / "bf16"), strict=True
    ):
        assert half["rec_loss"] == pytest.approx(full["rec_loss"], rel=0.02)
        assert half["rec_loss"] != full["rec_loss"]
    assert weights(tmp_path / "bf16")["encoder.conv_in.weight"].dtype == torch.float32


def test_the_learning_rate_follows_the_batch(tmp_path, pictures):
    changes = {"optim__learning_rate": None, "optim__base_learning_rate": 1e-6}
    config = vqgan_run(pictures, tmp_path / "run", optim__accumulate=2, optim__steps=1, **changes)
    assert train_vqgan(config).metrics["lr"] == pytest.approx(4 * 2 * 1e-6)


def test_tensorboard_and_held_out_figures(tmp_path, pictures):
    config = vqgan_run(
        pictures, tmp_path / "run", optim__steps=2, log__tensorboard=True, log__progress=True,
        data__validation=str(pictures), data__validation_crops=3,
    )  # fmt: skip
    metrics = train_vqgan(config).metrics
    assert metrics["val_psnr"] > 0 and 0 < metrics["val_codebook_usage"] <= 1
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"codebook_usage" in events.read_bytes()
