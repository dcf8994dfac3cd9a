"""Untrained models that are conditioned on maps, and what goes into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vqgan import tiny_vqgan

from vqgan_fast.cli import main
from vqgan_fast.data import Depth
from vqgan_fast.data.crops import Box
from vqgan_fast.data.stream import View, channels_first
from vqgan_fast.models import GPT, VQGAN, CodesCondition, LatentTransformer
from vqgan_fast.train import build_config, save_config

CODES = 12  # of a window of 4 x 4 codes, 8 x 8 pixels


def save_model(folder: Path, condition: object, length: int, null: bool = True) -> None:
    vocab_size = max(CODES, condition.vocab_size) + null
    torch.manual_seed(0)
    gpt = GPT(vocab_size, length, n_layer=1, n_head=1, n_embd=16)
    for parameter in gpt.parameters():  # logits that depend on every token
        torch.nn.init.normal_(parameter, std=0.5)
    null_token = vocab_size - 1 if null else None
    vqgan = tiny_vqgan(CODES, resolution=16)  # at which SSIM can be measured
    model = LatentTransformer(vqgan, condition, gpt, null_token=null_token)
    model.save_pretrained(folder / "model")


def save_depth_run(run: Path, photos: Path, maps: Path) -> None:
    """A run of depth of which the pictures are held out as well."""
    save_model(run, CodesCondition(tiny_vqgan(CODES, 1), {"kind": "depth"}), 32)
    config = build_config(
        {
            "stage": "transformer", "run_dir": str(run), "first_stage": str(run),
            "data": {"train": str(photos), "validation": str(photos), "size": 8, "resize": None},
            "condition": {
                "kind": "depth", "vqgan": str(run), "folder": str(maps),
                "validation_folder": str(maps),
            },
        }
    )  # fmt: skip
    save_config(config, run / "config.yaml")


def depth_maps(files: list[Path]) -> torch.Tensor:
    kind = Depth(files)
    with Image.open(files[0]) as picture:
        size = picture.size
    view, shape = View(Box(0, 0, *size), mirrored=False), np.empty((size[1], size[0], 3))
    maps = torch.stack([channels_first(kind.crop(i, shape, view)) for i in range(len(files))])
    return kind.to_model(maps)


def depth_tokens(run: Path, files: list[Path]) -> torch.Tensor:
    model = LatentTransformer.from_pretrained(run / "model")
    return model.cond_stage_model(len(files), "cpu", depth_maps(files))


def run_sample(*arguments: object) -> None:
    assert main(["sample", *map(str, arguments)]) == 0


def encoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures or maps are encoded at once, call by call."""
    sizes, encode = [], VQGAN.encode_indices
    monkeypatch.setattr(
        VQGAN, "encode_indices", lambda self, x: sizes.append(len(x)) or encode(self, x)
    )
    return sizes
