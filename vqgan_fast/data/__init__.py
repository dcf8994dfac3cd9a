"""Pictures and codes as training data."""

from .codes import (
    Codes,
    codebook_fingerprint,
    read_codes,
    tokenize_images,
    write_codes,
)
from .held_out import HeldOut, held_out_crops
from .images import DataError, UnreadableImageError, list_images, read_image
from .order import SampleOrder, rank_positions
from .stream import Batch, ImageStream, batches, to_model_range, to_pixels

__all__ = [
    "Batch",
    "Codes",
    "DataError",
    "HeldOut",
    "ImageStream",
    "SampleOrder",
    "UnreadableImageError",
    "batches",
    "codebook_fingerprint",
    "held_out_crops",
    "list_images",
    "rank_positions",
    "read_codes",
    "read_image",
    "to_model_range",
    "to_pixels",
    "tokenize_images",
    "write_codes",
]
