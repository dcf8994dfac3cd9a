"""examples/slurm under a Slurm of two nodes: `python -m pytest tests/train/slurm_jobs.py`, some
minutes; needs root and Debian's slurmctld, slurmd, slurm-client and munge."""

from __future__ import annotations

import filecmp
from dataclasses import asdict
from pathlib import Path

import pytest
from launches import assert_same_run, run_launches
from slurm_cluster import Cluster, lacking, slurm, wait
from tiny import transformer_run

from vqgan_fast.train import load_config
from vqgan_fast.train.load_config import save_config

EXAMPLES = Path(__file__).parents[2] / "examples" / "slurm"
SIZES = ("--nodes=2", "--gpus-per-node=1", "--cpus-per-task=1")

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"needs {', '.join(lacking())}")


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm") as started:
        yield started


def start_now(cluster: Cluster, job: str) -> None:
    """A job that is queued again waits for two minutes otherwise."""
    wait(lambda: cluster.job(job, "JobState") == "PENDING", 60)
    cluster.on("one", "scontrol", "update", f"JobId={job}", "StartTime=now")


def test_training_that_is_preempted_and_loses_a_machine(cluster, tmp_path, first_stage, pictures):
    changes = {
        "data__train": str(pictures), "optim__steps": 900, "log__checkpoint_every": 50,
        "rank_timeout_minutes": 0.5,
    }  # fmt: skip
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    save_config(transformer_run(first_stage, run, **changes), config)

    def has_step(step: int) -> bool:
        return any(int(path.name[5:]) >= step for path in run.glob("checkpoints/step_*"))

    def said() -> str:
        return (cluster.folder / f"vqgan-{job}.log").read_text()

    options = (*SIZES, "--time=00:30:00", str(EXAMPLES / "train.sbatch"), str(config))
    job = cluster.on("one", "sbatch", "--parsable", *options).strip()
    wait(lambda: has_step(100), 120)
    cluster.on("one", "sbatch", "-p", "high", "-N2", "--exclusive", "--wait", "--wrap", "true")
    assert "stopped by SIGTERM at step" in said()
    start_now(cluster, job)
    wait(lambda: has_step(300), 120)
    cluster.cut_off("two")
    wait(lambda: cluster.job(job, "Restarts") == "2", 120)
    cluster.plug_in("two")
    start_now(cluster, job)
    wait(lambda: cluster.job(job, "JobState") == "COMPLETED", 180)
    assert "finished at step 900" in said()
    undisturbed = load_config(config, [f"run_dir={tmp_path / 'undisturbed'}"])
    outcomes, told = run_launches(tmp_path, [{"config": asdict(undisturbed)}])
    assert outcomes == ["done"], told
    assert_same_run(run, tmp_path / "undisturbed")


def test_codes_of_two_machines_are_those_of_one(cluster, tmp_path, first_stage, pictures):
    command = (str(first_stage), str(pictures), "--crops", "3", "--flip", "--per-file", "5")
    options = (*SIZES, str(EXAMPLES / "tokenize.sbatch"), *command)
    cluster.on("one", "sbatch", "--wait", *options, "--output", str(tmp_path / "two"))
    cluster.on("one", "vqgan-fast", "tokenize", *command, "--output", str(tmp_path / "one"))
    written = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert written[0] == written[1] and len(written[0]) > 4
    same, *others = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", written[0], shallow=False)
    assert len(same) == len(written[0]) and others == [[], []]
