"""More faults than the test suite has time for: `make faults`, some minutes.

Stage 1 with all that a checkpoint holds, on three ranks; 200 steps of moving averages and restarted
codes; a disk that is full; both stages through torchrun's command line; two hosts, as network
namespaces, whose connection is cut.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hosts import torchrun, two_hosts
from launches import assert_same_run, run_launches
from tiny import read_metrics, transformer_run, vqgan_run

from vqgan_fast.train import load_config
from vqgan_fast.train.load_config import save_config

STAGE_1 = {
    "data__global_batch_size": 6, "data__size": 16, "optim__steps": 8, "log__checkpoint_every": 3,
    "optim__ema_decay": 0.8, "codebook__restart_dead_codes": True, "codebook__restart_after": 4,
}  # fmt: skip
# Codes that are few steps' averages, and restarted by the quantizer itself.
EMA_RESTARTED = {
    "codebook__restart_dead_codes": False, "model__quantizer": "ema",
    "model__quantizer_options": {"decay": 0.8, "restart_below": 0.05},
}  # fmt: skip


@pytest.mark.parametrize("background", [False, True])
def test_stage_1_on_three_ranks_that_are_killed(tmp_path, pictures, background):
    faults = [
        [0, 2, "kill in step", 13],  # two backward passes a step: step 7, when step 3 is whole
        [1, 1, "kill in checkpoint", 1],
        [2, 0, "kill before the rename", 2],
        [3, 2, "full disk", 1],
    ]
    changes = {"model__dropout": 0.1, "log__checkpoint_in_background": background}

    def config(run):
        return asdict(vqgan_run(pictures, tmp_path / run, **STAGE_1, **changes))

    outcomes, told = run_launches(
        tmp_path,
        [
            {"config": config("undisturbed"), "ranks": 3},
            {"config": config("killed"), "ranks": 3, "faults": faults, "restarts": 4},
        ],
    )
    assert outcomes == ["done", "done"], told
    assert "File too large" in told
    # Step 6 if it was whole, which in the background is a matter of time, else step 3.
    assert told.count(f"resuming from {tmp_path / 'killed'}/checkpoints/step_") == 4, told
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.parametrize("quantizer", ["vector", "ema"])
@pytest.mark.parametrize("double", [False, True])
def test_stage_1_on_two_three_two_ranks(tmp_path, pictures, double, quantizer):
    def config(name, **changes):
        # Without the discriminator, whose kinks single precision steps over: see test_distributed.
        more = {} if double else {"loss__disc_factor": 0.0}
        if quantizer == "ema":
            more |= EMA_RESTARTED
        return asdict(vqgan_run(pictures, tmp_path / name, **{**STAGE_1, **more, **changes}))

    launches = [{"config": config("two", optim__steps=20)}]
    for steps, ranks in ((7, 2), (14, 3), (20, 2)):
        changed = config("changed", optim__steps=steps, resume=steps > 7)
        launches.append({"config": changed, "ranks": ranks})
    outcomes, told = run_launches(tmp_path, [{**one, "double": double} for one in launches])
    assert outcomes == ["done"] * 4, told
    changed, two = read_metrics(tmp_path / "changed"), read_metrics(tmp_path / "two")
    assert len(changed) == len(two) == 20
    for entry, expected in zip(changed, two, strict=True):
        assert entry == pytest.approx(expected, rel=1e-9 if double else 1e-5)


@pytest.mark.parametrize("quantizer", ["vector", "ema"])
def test_ranks_hold_the_same_bits_after_200_steps(tmp_path, pictures, quantizer):
    changes = {**STAGE_1, "optim__steps": 200, "log__checkpoint_every": 50}
    if quantizer == "ema":
        changes |= EMA_RESTARTED
    config = asdict(vqgan_run(pictures, tmp_path / "run", **changes))
    launch = {"config": config, "ranks": 3, "keep": str(tmp_path)}
    outcomes, told = run_launches(tmp_path, [launch])
    assert outcomes == ["done"], told
    entries = read_metrics(tmp_path / "run")
    assert entries[-1]["step"] == 200
    if quantizer == "vector":
        assert sum(entry["restarted_codes"] for entry in entries) > 10
    first, *others = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(3)]
    assert {name.split("/")[0] for name in first} >= {"model", "average", "discriminator"}
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in first.items())


def test_a_disk_that_is_full(tmp_path, pictures):
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("a small disk needs root and `mount`")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    try:
        config = asdict(vqgan_run(pictures, disk / "run", **STAGE_1))
        outcomes, told = run_launches(tmp_path, [{"config": {**config, "optim": {
            **config["optim"], "steps": 3}}}])  # fmt: skip
        assert outcomes == ["done"], told
        left = shutil.disk_usage(disk).free - 2**18  # room for the log, not for a checkpoint
        with open(disk / "something_else", "wb") as file:
            file.write(bytes(left))
        config["resume"] = True
        outcomes, told = run_launches(tmp_path, [{"config": config}])
        assert "exitcode  : 2" in outcomes[0]
        # What stands behind it is the system's reason, or torch's where its zip file broke off.
        assert (
            "the checkpoint of step 6 cannot be written: [" in told and "is the disk full" in told
        )
        assert "the last whole one is" in told
        assert [path.name for path in (disk / "run" / "checkpoints").iterdir()] == ["step_000003"]
        (disk / "something_else").unlink()
        undisturbed = asdict(vqgan_run(pictures, tmp_path / "undisturbed", **STAGE_1))
        outcomes, told = run_launches(tmp_path, [{"config": config}, {"config": undisturbed}])
        assert outcomes == ["done", "done"], told
        assert_same_run(disk / "run", tmp_path / "undisturbed")
    finally:
        subprocess.run(["umount", disk], check=True)


def wait_for_step(run_dir: Path, step: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (run_dir / "metrics.jsonl").exists() and read_steps(run_dir)[-1:] >= [step]:
            return
        time.sleep(0.05)
    raise AssertionError(f"{run_dir} did not come to step {step} in {seconds} s")


def read_steps(run_dir: Path) -> list[int]:
    lines = (run_dir / "metrics.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize("stage", ["vqgan", "transformer"])
def test_torchrun_passes_a_signal_on_and_the_command_resumes(
    tmp_path, pictures, first_stage, stage
):
    if stage == "vqgan":
        config = vqgan_run(pictures, tmp_path / "run", **{**STAGE_1, "optim__steps": 10_000})
    else:
        changes = {"data__train": str(pictures), "optim__steps": 10_000}
        config = transformer_run(first_stage, tmp_path / "run", **changes)
    save_config(config, tmp_path / "config.yaml")
    command = (
        "--standalone", "--nproc-per-node", "2", "-m", "vqgan_fast", "train",
        str(tmp_path / "config.yaml"),
    )  # fmt: skip
    running = torchrun(*command, said=tmp_path / "said")
    wait_for_step(tmp_path / "run", 4)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) != 0
    told = (tmp_path / "said").read_text()
    assert "stopped by SIGTERM at step" in told and "resume=true" in told
    step = read_steps(tmp_path / "run")[-1]
    assert (tmp_path / "run" / "checkpoints" / f"step_{step:06d}").is_dir()
    again = torchrun(*command, "--resume", f"optim.steps={step + 2}", said=tmp_path / "said")
    assert again.wait(timeout=120) == 0, (tmp_path / "said").read_text()
    assert read_steps(tmp_path / "run") == list(range(1, step + 3))


def test_two_hosts_whose_connection_is_cut(tmp_path, first_stage, pictures):
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    seconds = 20.0
    changes = {
        "data__train": str(pictures), "optim__steps": 400, "log__checkpoint_every": 20,
        "rank_timeout_minutes": seconds / 60,
    }  # fmt: skip
    save_config(transformer_run(first_stage, tmp_path / "run", **changes), tmp_path / "config.yaml")
    with two_hosts() as hosts:
        command = (
            "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--max-restarts",
            "5", "--rdzv-endpoint", f"{hosts[0].address}:29511", "--rdzv-id", "cut",
        )  # fmt: skip
        training = ("-m", "vqgan_fast", "train", str(tmp_path / "config.yaml"))
        running = [
            # torchrun would take the host for one of that name, which both have.
            host.torchrun(*command, f"--rdzv-conf=is_host={int(host is hosts[0])}", *training,
                          said=tmp_path / host.name)
            for host in hosts
        ]  # fmt: skip
        try:
            wait_for_step(tmp_path / "run", 50)
            hosts[1].set_link("down")
            time.sleep(1.5 * seconds)
            hosts[1].set_link("up")
            ends = [process.wait(timeout=240) for process in running]
        finally:
            for process in running:
                process.kill()
        said = [(tmp_path / host.name).read_text() for host in hosts]
    assert ends == [0, 0], "\n\n".join(said)
    # Ranks are numbered anew when the hosts meet again.
    assert "resuming from" in said[0] + said[1] and "finished at step 400" in said[0] + said[1]
    undisturbed = load_config(tmp_path / "config.yaml", [f"run_dir={tmp_path / 'undisturbed'}"])
    outcomes, told = run_launches(tmp_path, [{"config": asdict(undisturbed)}])
    assert outcomes == ["done"], told
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")
