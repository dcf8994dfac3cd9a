"""The smallest runs that still have every part of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vqgan_fast.train import TransformerRun, VQGANRun, build_config

# What depends on the clock, and so is never compared.
CLOCK = ("minutes", "images_per_second", "data_wait")


def vqgan_run(pictures: Path, run_dir: Path, **changes: Any) -> VQGANRun:
    """A run of stage 1 on 32 x 32 crops; `changes` are dotted keys with __ for the dot."""
    given = {
        "stage": "vqgan",
        "run_dir": str(run_dir),
        "device": "cpu",
        "model": {
            "codebook_size": 32, "embed_dim": 8, "ch": 32, "ch_mult": [1, 1, 1], "z_channels": 16,
            "num_res_blocks": 1, "attn_resolutions": [], "resolution": 32,
        },
        "loss": {
            "disc_start": 0, "disc_ndf": 8, "disc_num_layers": 2, "perceptual_weight": 0.0,
        },
        "data": {
            "train": str(pictures), "size": 32, "resize": None, "batch_size": 4, "num_workers": 0,
        },
        "optim": {"steps": 4, "learning_rate": 1e-3},
        "log": {
            "every": 1, "images_every": 1000, "checkpoint_every": 1000, "progress": False,
            "tensorboard": False,
        },
    }  # fmt: skip
    return build_config(_changed(given, changes))


def transformer_run(first_stage: Path, run_dir: Path, **changes: Any) -> TransformerRun:
    """A run of stage 2 over 8 x 8 codes; the data must be given in `changes`."""
    given = {
        "stage": "transformer",
        "run_dir": str(run_dir),
        "device": "cpu",
        "first_stage": str(first_stage),
        "gpt": {"n_layer": 2, "n_head": 2, "n_embd": 32},
        "data": {"size": 32, "resize": None, "batch_size": 4, "num_workers": 0},
        "optim": {"steps": 4, "learning_rate": 1e-3},
        "log": {
            "every": 1, "images_every": 1000, "checkpoint_every": 1000, "progress": False,
            "tensorboard": False,
        },
    }  # fmt: skip
    return build_config(_changed(given, changes))


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The entries of metrics.jsonl without what depends on the clock."""
    entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in e.items() if key not in CLOCK} for e in entries]


def _changed(given: dict, changes: dict[str, Any]) -> dict:
    for key, value in changes.items():
        *sections, name = key.split("__")
        node = given
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return given
