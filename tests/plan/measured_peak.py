"""The peak memory of real training runs beside what `vqgan-fast plan` says of them.

    python tests/plan/measured_peak.py                    three sizes of each stage, some minutes
    python tests/plan/measured_peak.py vqgan:0 vqgan:1    these alone, in one process
    python tests/plan/measured_peak.py transformer:0:label    with one of CONDITIONS
    python tests/plan/measured_peak.py transformer:0:pixel_snail    with another transformer
    python tests/plan/measured_peak.py transformer:0:label:4    and a batch of 4 instead of its own

With `segmentation`, stage 1 learns labels instead of pictures.

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

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sample_pictures import write_pictures

from vqgan_fast.models import VQGAN
from vqgan_fast.plan.load import FirstStages
from vqgan_fast.plan.rehearsal import Rehearsal, Setting
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
N_LABELS = 24
LABELS = {"kind": "segmentation", "n_labels": N_LABELS}
# None: a VQGAN of labels of its own, as large as the first stage.
CONDITIONS = {
    "label": [{"kind": "label"}],
    "coordinates": [{"kind": "coordinates"}],
    "edges": [{"kind": "edges"}],
    "segmentation": [{**LABELS, "vqgan": None}],
    "combined": [{"kind": "label"}, {"kind": "coordinates"}, {**LABELS, "vqgan": None}],
}
CLASSES = 2
# Other transformers: their kind, and their sizes in each case. Beside a shallow one encoding the
# pictures is what takes most.
TRANSFORMERS = {
    "shallow": (
        "pixel_snail",
        {"n_layer": 1, "n_head": 4, "n_embd": 32},
        {"n_layer": 4, "n_head": 4, "n_embd": 96},
        {"n_layer": 4, "n_head": 4, "n_embd": 192},
    ),
    "pixel_snail": (
        "pixel_snail",
        {"n_layer": 2, "n_head": 4, "n_embd": 64},
        {"n_layer": 6, "n_head": 4, "n_embd": 96},
        {"n_layer": 8, "n_head": 8, "n_embd": 256},
    ),
}


def run_of(stage: str, number: int, folder: Path, variant: str | None = None):
    """A run on `folder`'s pictures, and what its plan knows of the stages before it.

    `variant`: segmentation of stage 1; one of CONDITIONS or TRANSFORMERS of stage 2.
    """
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
        if variant is not None:
            given["data"]["maps"] = {**LABELS, "folder": str(folder / "labels")}
            given["model"] |= {"in_channels": N_LABELS, "out_ch": N_LABELS}
            given["loss"] = {"kind": "segmentation"}
        return build_config(given), None
    sizes = {**sizes, **MODEL, "resolution": side}
    of_labels = {**sizes, "in_channels": N_LABELS, "out_ch": N_LABELS}
    VQGAN(**sizes).save_pretrained(folder / f"first{number}")
    VQGAN(**of_labels).save_pretrained(folder / f"labels{number}")
    if variant in TRANSFORMERS:
        kind, *of_cases = TRANSFORMERS[variant]
        given["transformer"], gpt = kind, of_cases[number]
    given["first_stage"], given["gpt"] = str(folder / f"first{number}"), gpt
    parts, own = [dict(part) for part in CONDITIONS.get(variant, [{"kind": "sos"}])], []
    for part in parts:
        own.append(ModelConfig(**of_labels) if "vqgan" in part else None)
        if "vqgan" in part:
            part |= {"vqgan": str(folder / f"labels{number}"), "folder": str(folder / "labels")}
    given["condition"] = {"parts": parts} if len(parts) > 1 else parts[0]
    return build_config(given), FirstStages(ModelConfig(**sizes), tuple(own), CLASSES)


def write_data(folder: Path) -> None:
    """Pictures in folders of classes, and labels beside them."""
    for number in range(CLASSES):
        name = f"class{number}"
        write_pictures(folder / "pictures" / name, 2, 256, 256)
        (folder / "labels" / name).mkdir(parents=True)
        for picture in sorted((folder / "pictures" / name).iterdir()):
            labels = np.indices((256, 256)).sum(0).astype(np.uint8) % N_LABELS
            Image.fromarray(labels).save(folder / "labels" / name / f"{picture.stem}.png")


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
        write_data(folder)
        # What the first run loads is not its memory.
        warm, _ = run_of("vqgan", 0, folder)
        warm.run_dir, warm.data.size, warm.data.batch_size = str(folder / "warm"), 32, 1
        train(warm)
        for case in cases:
            stage, number, variant, batch = (*case.split(":"), None, None)[:4]
            config, stages = run_of(stage, int(number), folder, variant)
            config.run_dir = str(folder / case)
            if batch is not None:
                config.data.batch_size = int(batch)
            measured = measure(config)
            memory = Rehearsal(config, stages).step(Setting(config.data.batch_size))
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
        cases = [f"{stage}:{n}" for n in range(len(CASES)) for stage in STAGES]
        cases += ["vqgan:0:segmentation", *(f"transformer:0:{name}" for name in CONDITIONS)]
        cases += [f"transformer:{n}:{name}" for name in TRANSFORMERS for n in range(len(CASES))]
        for case in cases:
            subprocess.run([sys.executable, __file__, case], check=True)
