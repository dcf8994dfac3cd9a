"""The codes that stage 2 learns from: random crops of the training regions, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data import ImageStream, tokenize_images, write_codes
from ..models import VQGAN
from ..train import TransformerRun

CODES_FILE = "codes.safetensors"
CROPS = 3000  # of all pictures together, at least one of each: stage 2 sees each a few times
BATCH = 16


def write_training_codes(
    vqgan: VQGAN, pictures: Sequence[Path], run: TransformerRun, path: Path
) -> None:
    """Writes the codes to `path`, and makes `run` train on them instead of on the pictures.

    Encoding every crop anew at each step would take about as long as the small transformer itself.
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
    crops = max(1, CROPS // len(pictures))
    tokens, _ = tokenize_images(vqgan, stream, crops_per_image=crops, batch_size=BATCH)
    write_codes(path, tokens, vqgan.quantize.embedding.weight)
    data.train, data.codes = None, str(path)
