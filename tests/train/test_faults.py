"""Ranks that are killed, restarted, added and taken away: the losses go on as if nothing was.

These are stage 2, whose checkpoints have few tensors; `faults.py` does more (`make faults`).
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from launches import assert_same_run, run_launches, weights
from tiny import read_metrics, transformer_run

from vqgan_fast.models import GPT, LatentTransformer

# Six samples of eleven pictures a step: batches cross the ends of epochs.
CHANGES = {
    "data__global_batch_size": 6, "pkeep": 0.8, "gpt__n_layer": 1, "optim__steps": 8,
    "log__checkpoint_every": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def launched(tmp_path_factory, pictures, first_stage):
    """The folder of all runs, what their launches ended with, and what was said."""
    folder = tmp_path_factory.mktemp("launches")

    def config(name, **changes):
        given = {"data__train": str(pictures), **CHANGES, **changes}
        return asdict(transformer_run(first_stage, folder / name, **given))

    dropout = {"gpt__resid_pdrop": 0.1, "optim__accumulate": 3}
    averaged = {
        "optim__ema_decay": 0.8, "optim__accumulate": 2, "data__global_batch_size": 12,
        "data__validation": str(pictures), "data__validation_crops": 5,
        "optim__activation_checkpointing": True,
    }  # fmt: skip
    sharded = {**averaged, "optim__sharded": True}
    faults = [
        [0, 1, "kill in step", 14],  # three backward passes a step: in the middle of step 5
        [1, 1, "kill in checkpoint", 1],  # that of step 6
        [2, 0, "kill before the rename", 2],  # it once more: all is written but the manifest
        [3, 1, "full disk", 1],  # and once more
        [4, 0, "SIGTERM", 4],  # to torchrun, in step 7
    ]
    launches = {
        "undisturbed": {"config": config("undisturbed", **dropout)},
        "killed": {"config": config("killed", **dropout), "faults": faults, "restarts": 4},
        "resumed": {"config": config("killed", resume=True, **dropout)},
        "two": {"config": config("two", optim__steps=20)},
        "2": {"config": config("2-3-2", optim__steps=7)},
        "3": {"config": config("2-3-2", optim__steps=14, resume=True), "ranks": 3},
        "2 again": {"config": config("2-3-2", optim__steps=20, resume=True)},
        "sharded": {"config": config("sharded", **sharded)},
        "sharded 2": {"config": config("2-3-whole", **{**sharded, "optim__steps": 3})},
        "sharded 3": {
            "config": config("2-3-whole", resume=True, **{**sharded, "optim__steps": 6}),
            "ranks": 3,
        },
        "whole": {"config": config("2-3-whole", resume=True, **averaged)},
        "never sharded": {"config": config("never-sharded", **averaged)},
        "unlike": {"config": config("unlike"), "config_of_rank": {"1": {"seed": 3}}},
        "broken": {"config": config("broken"), "faults": [[0, 1, "bit flip", 2]]},
    }
    outcomes, told = run_launches(folder, list(launches.values()))
    return folder, dict(zip(launches, outcomes, strict=True)), told


def test_killed_ranks_start_again_from_the_last_checkpoint(launched):
    folder, outcomes, told = launched
    assert outcomes["undisturbed"] == outcomes["resumed"] == "done", told
    # After the second and third kill and on the full disk, step 3 is still the last good one.
    assert told.count(f"resuming from {folder}/killed/checkpoints/step_000003") == 4
    assert "the checkpoint of step 6 cannot be written: [Errno 27] File too large" in told
    assert_same_run(folder / "killed", folder / "undisturbed")
    assert [entry["step"] for entry in read_metrics(folder / "killed")] == list(range(1, 9))
    names = sorted(path.name for path in (folder / "killed" / "checkpoints").iterdir())
    assert names[-2:] == ["step_000007", "step_000008"]


def test_a_signal_to_torchrun_ends_in_a_checkpoint(launched):
    _, outcomes, told = launched
    assert outcomes["killed"] == "SIGTERM", told
    assert "stopped by SIGTERM at step 7" in told
    assert "resuming from" in told and "killed/checkpoints/step_000007" in told


def test_the_number_of_ranks_may_change(launched):
    folder, outcomes, told = launched
    for name in ("two", "2", "3", "2 again"):
        assert outcomes[name] == "done", told
    changed, two = read_metrics(folder / "2-3-2"), read_metrics(folder / "two")
    assert len(changed) == len(two) == 20
    for entry, expected in zip(changed, two, strict=True):
        assert entry == pytest.approx(expected, rel=1e-5)
    assert any(entry != expected for entry, expected in zip(changed, two, strict=True))


def test_sharded_weights_are_the_same_training(launched):
    folder, outcomes, told = launched
    for name in ("sharded", "sharded 2", "sharded 3", "whole", "never sharded"):
        assert outcomes[name] == "done", told
    expected = read_metrics(folder / "never-sharded")
    assert len(expected) == 8 and "val_nll" in expected[0]
    for name in ("sharded", "2-3-whole"):
        for entry, one in zip(read_metrics(folder / name), expected, strict=True):
            assert entry == pytest.approx(one, rel=1e-5), name
    assert isinstance(LatentTransformer.from_pretrained(folder / "sharded/model").transformer, GPT)
    for key, value in weights(folder / "never-sharded").items():
        for name in ("sharded", "2-3-whole"):
            torch.testing.assert_close(weights(folder / name)[key], value, rtol=1e-3, atol=1e-5)


def test_ranks_that_are_not_alike_are_refused(launched):
    folder, outcomes, told = launched
    assert "exitcode  : 2" in outcomes["unlike"]
    assert "the ranks of a run must be alike: seed is 0 on rank 0" in told
    assert "and 3 on rank 1" in told
    assert not (folder / "unlike").exists()


def test_ranks_that_come_apart_are_noticed_before_they_are_saved(launched):
    folder, outcomes, told = launched
    assert "exitcode  : 2" in outcomes["broken"]
    assert "RanksDifferError: gpt/" in told and "not the same on all 2 ranks after step 3" in told
    assert list((folder / "broken" / "checkpoints").iterdir()) == []
