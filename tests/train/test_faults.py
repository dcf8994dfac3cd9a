"""Ranks that are killed, restarted, added and taken away: the losses go on as if nothing was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import elastic
import torch
from safetensors.torch import load_file
from tiny import read_metrics, vqgan_run

HERE = Path(__file__).parent
# Six samples of eleven pictures a step: batches cross the ends of epochs.
STAGE_1 = {
    "data__global_batch_size": 6, "data__size": 16, "optim__steps": 8, "log__checkpoint_every": 3,
    "optim__ema_decay": 0.8, "model__dropout": 0.1, "codebook__restart_dead_codes": True,
    "codebook__restart_after": 4,
}  # fmt: skip
STAGE_2 = {
    "data__global_batch_size": 6, "pkeep": 0.8, "gpt__resid_pdrop": 0.1, "optim__steps": 8,
    "log__checkpoint_every": 3, "optim__accumulate": 3,
}  # fmt: skip


def run(tmp_path, scenarios) -> tuple[list[str], str]:
    """The outcome of each launch, and all that was said."""
    file = tmp_path / "scenarios.json"
    file.write_text(json.dumps(scenarios))
    path = [HERE.parent.parent, HERE.parent, HERE, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, elastic.__file__, file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["outcome"] for line in done.stdout.splitlines()], done.stderr


def weights(run_dir):
    (file,) = (*run_dir.glob("vqgan/*.safetensors"), *run_dir.glob("model/gpt/*.safetensors"))
    return load_file(file)


def assert_same_run(run_dir, expected_dir, steps=8):
    """The same log at every step and the same weights, bit for bit."""
    entries = read_metrics(run_dir)
    assert [entry["step"] for entry in entries] == list(range(1, steps + 1))
    assert entries == read_metrics(expected_dir)
    expected = weights(expected_dir)
    assert all(torch.equal(value, expected[key]) for key, value in weights(run_dir).items())


def test_killed_ranks_start_again_from_the_last_checkpoint(tmp_path, pictures):
    def config(name):
        return asdict(vqgan_run(pictures, tmp_path / name, **STAGE_1))

    faults = [
        [0, 1, "kill in step", 9],  # two backward passes a step: in the middle of step 5
        [1, 1, "kill in checkpoint", 1],  # that of step 6
        [2, 0, "kill before the rename", 2],  # it once more: all is written but the manifest
    ]
    outcomes, told = run(
        tmp_path,
        [
            {"config": config("undisturbed"), "ranks": 2},
            {"config": config("killed"), "ranks": 2, "faults": faults},
        ],
    )
    assert outcomes == ["done", "done"], told
    assert told.count("resuming from") == 3 and told.count("step_000003") == 3
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed")
    names = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert names == ["step_000003", "step_000006", "step_000008"]
