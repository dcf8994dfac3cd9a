"""The peak memory of real training runs beside what `vqgan-fast plan` says of them.

    python tests/plan/measured_peak.py                    three sizes of each stage, some minutes
    python tests/plan/measured_peak.py vqgan:0 vqgan:1    these alone, in one process

Prints a JSON line for each: `measured`, by how much the process's resident memory grew at its peak,
and `planned`, both in bytes.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sample_pictures import write_pictures

from vqgan_fast.models import VQGAN
from vqgan_fast.plan import Rehearsal, Setting
from vqgan_fast.train import build_config, train
from vqgan_fast.train.config import STAGES, ModelConfig

STEPS = 2  # at the second one the optimizer's moments lie there
SMALL, MIDDLE, LARGE = (
    {"ch": 32, "ch_mult": [1, 1, 2], "z_channels": 64, "embed_dim": 32},
    {"ch": 64, "ch_mult": [1, 1, 2, 2], "z_channels": 128, "embed_dim": 64},
    {"ch": 64, "ch_mult": [1, 1, 2, 2, 4], "z_channels": 256, "embed_dim": 256},
)
MODEL = {"codebook_size": 512, "num_res_blocks": 1, "attn_resolutions": []}
# (stage 1's model, the batch and side of its pictures, the stage-2 model, its batch)
CASES = (
    (SMALL, 8, 64, {"n_layer": 4, "n_head": 4, "n_embd": 256}, 16),
    (MIDDLE, 4, 128, {"n_layer": 6, "n_head": 8, "n_embd": 512}, 8),
    (LARGE, 2, 192, {"n_layer": 8, "n_head": 8, "n_embd": 768}, 8),
)


def run_of(stage: str, number: int, folder: Path):
    sizes, batch, side, gpt, codes_batch = CASES[number]
    given = {
        "stage": stage, "run_dir": str(folder / f"{stage}{number}"), "device": "cpu",
        "data": {
            "train": str(folder / "pictures"), "size": side, "resize": side, "num_workers": 0,
            "batch_size": batch if stage == "vqgan" else codes_batch,
        },
        "optim": {"steps": STEPS, "learning_rate": 1e-4},
        "log": {
            "every": 100, "images_every": 100, "checkpoint_every": 100, "progress": False,
            "tensorboard": False,
        },
    }  # fmt: skip
    if stage == "vqgan":
        given["model"] = {**sizes, **MODEL, "resolution": side}
        given["loss"] = {
            "disc_start": 0, "disc_ndf": 32, "perceptual_net": "squeeze",
            "perceptual_weights": "random",
        }  # fmt: skip
        given["optim"]["ema_decay"] = 0.99
    else:
        VQGAN(**sizes, **MODEL, resolution=side).save_pretrained(folder / f"first{number}")
        given["first_stage"] = str(folder / f"first{number}")
        given["gpt"] = gpt
    return build_config(given)


def resident(key: str) -> int:
    """Bytes by /proc: VmRSS now, VmHWM at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def measure(config) -> int:
    """By how much the resident memory grows in a run, at most."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest value begins anew
    before = resident("VmRSS")
    train(config)
    return resident("VmHWM") - before


def main(cases: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures", 4, 256, 256)
        # What the first run loads is not its memory.
        warm = run_of("vqgan", 0, folder)
        warm.run_dir, warm.data.size, warm.data.batch_size = str(folder / "warm"), 32, 1
        train(warm)
        for case in cases:
            stage, number = case.split(":")
            config = run_of(stage, int(number), folder)
            measured = measure(config)
            sizes = None
            if stage == "transformer":
                sizes = ModelConfig(**CASES[int(number)][0], **MODEL, resolution=config.data.size)
            memory = Rehearsal(config, sizes).step(Setting(config.data.batch_size))
            figures = {"measured": measured, "planned": memory.total, **vars(memory)}
            print(json.dumps({"case": case, **figures}), flush=True)


if __name__ == "__main__":
    # Large blocks go back to the system when they are freed, so that what is resident is in use.
    wanted = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if sys.argv[1:]:
        main(sys.argv[1:])
    else:  # each in a process of its own: what one leaves behind would be found by the next
        for case in (f"{stage}:{n}" for n in range(len(CASES)) for stage in STAGES):
            subprocess.run([sys.executable, __file__, case], check=True)
