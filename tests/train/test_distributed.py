"""Two ranks train exactly what one process with the double batch trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import two_ranks
from sample_pictures import write_truncated_jpeg
from tiny import read_metrics
from two_ranks import STEPS, run_all

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pictures, first_stage):
    """The folders of the same three runs, of one process and of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    write_truncated_jpeg(pictures / "picture_004.jpg")
    run_all(pictures, first_stage, folder / "one", batch_size=4)
    path = [HERE.parent.parent, HERE.parent, HERE, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, two_ranks.__file__, pictures, first_stage, folder / "two", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    (pictures / "picture_004.jpg").unlink()
    assert done.returncode == 0, done.stderr
    return folder / "one", folder / "two", done.stderr


def close(expected, rel, abs):
    """Single precision, as users train: two ranks add up the same numbers in another order.

    At a kink (of |x - x_hat|, of LeakyReLU) a last bit decides on which side a gradient lies, and
    lambda is a ratio of two norms of such gradients. That is the likely, not the proven reason why
    on one processor it differed by 4e-4 at one step, and the total loss, which it weighs, by 1e-5.
    The run in double precision holds both to 1e-10.
    """
    weighed = {"d_weight", "total_loss"}
    loose = max(rel, 1e-3) if rel == SINGLE["rel"] else rel
    return {
        key: pytest.approx(value, rel=loose if key in weighed else rel, abs=abs)
        for key, value in expected.items()
    }


# The mean of the discriminator's logits lies near 0, hence the absolute part.
SINGLE, DOUBLE = {"rel": 1e-5, "abs": 1e-5}, {"rel": 1e-10, "abs": 1e-12}


@pytest.mark.parametrize(
    ("name", "tolerance", "steps"),
    [
        ("vqgan", SINGLE, STEPS),
        ("double", DOUBLE, 5),
        ("transformer", {"rel": 1e-5, "abs": 0}, STEPS),
    ],
)
def test_losses_are_those_of_one_process(runs, name, tolerance, steps):
    one, two = read_metrics(runs[0] / name), read_metrics(runs[1] / name)
    assert len(one) == len(two) == steps
    for expected, entry in zip(one, two, strict=True):
        assert entry == close(expected, **tolerance)


def test_the_run_had_all_that_could_differ(runs):
    entries = read_metrics(runs[0] / "vqgan")
    assert all(entry["disc_factor"] == 1 and entry["d_weight"] > 0 for entry in entries)
    assert sum(entry["restarted_codes"] for entry in entries) > 0
    assert entries[-1]["skipped_images"] == 1


def test_rank_0_alone_speaks_and_writes(runs):
    assert runs[2].count("learning rate") == 3
    assert runs[2].count("skipped") == 3 and "picture_004.jpg" in runs[2]
    assert (runs[1] / "vqgan" / "vqgan" / "model.safetensors").is_file()
    assert (runs[1] / "transformer" / "model" / "gpt" / "model.safetensors").is_file()


def test_one_process_goes_on_where_two_ranks_stopped(runs, pictures, tmp_path):
    import shutil

    from tiny import vqgan_run

    from vqgan_fast.train import load_config, train

    shutil.copytree(runs[1] / "vqgan", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_000010")
    saved = load_config(tmp_path / "run" / "config.yaml")
    config = vqgan_run(pictures, tmp_path / "run")
    config.data, config.optim, config.codebook = saved.data, saved.optim, saved.codebook
    config.data.batch_size, config.resume = 4, True
    write_truncated_jpeg(pictures / "picture_004.jpg")
    train(config)
    (pictures / "picture_004.jpg").unlink()
    expected, entries = read_metrics(runs[0] / "vqgan"), read_metrics(tmp_path / "run")
    assert [entry["step"] for entry in entries] == list(range(1, STEPS + 1))
    for entry, one in zip(entries[5:], expected[5:], strict=True):
        assert entry == close(one, **SINGLE)
