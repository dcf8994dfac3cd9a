"""The codes that stage 2 learns from: random crops of the training regions, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..data import ImageStream, to_model_range, tokenize_images, write_codes
from ..models import VQGAN
from ..train import TransformerRun
from .budget import median_seconds

CODES_FILE = "codes.safetensors"
CROPS = 3000  # of all pictures together, where there is the time: stage 2 sees each a few times
BATCH = 16


@torch.inference_mode()
def write_training_codes(
    vqgan: VQGAN, pictures: Sequence[Path], run: TransformerRun, path: Path, minutes: float
) -> int:
    """Writes the codes to `path`, and makes `run` train on them instead of on the pictures.

    Encoding every crop anew at each step would take about as long as the small transformer itself.

    Args:
        minutes: the time for it; on a slow machine there are fewer crops, but some of each picture.

    Returns:
        The number of crops.
    """
    data = run.data
    stream = ImageStream(
        pictures,
        size=data.size,
        resize=data.resize,
        flip=data.flip,
        region=data.train_region,
        seed=run.seed,
        shuffle=False,
        cache=True,
    )
    batch = to_model_range(torch.stack([stream[position].image for position in range(BATCH)]))
    seconds = median_seconds(lambda: vqgan.encode_indices(batch), repeats=3) / BATCH
    affordable = min(CROPS, int(60 * minutes / seconds))
    tokens, _ = tokenize_images(
        vqgan,
        stream,
        crops_per_image=max(1, affordable // len(pictures)),
        batch_size=BATCH,
    )
    write_codes(path, tokens, vqgan.quantize.codebook)
    data.train, data.codes = None, str(path)
    return len(tokens)
