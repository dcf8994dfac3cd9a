"""Pictures and codes as training data."""

from .classes import ClassLabel, class_labels, class_names
from .codes import (
    Codes,
    codebook_fingerprint,
    read_codes,
    tokenize_images,
    write_codes,
)
from .held_out import HeldOut, HeldOutPairs, held_out_crops, held_out_pairs
from .images import DataError, UnreadableImageError, list_images, read_image
from .keypoints import Keypoints
from .maps import Coordinates, CropMap, Depth, Edges, LowResolution, Segmentation
from .order import SampleOrder, rank_positions
from .pairs import PairedBatch, PairedStream, Pairs, pair_by_name
from .stream import Batch, ImageStream, batches, to_model_range, to_pixels

__all__ = [
    "Batch",
    "ClassLabel",
    "Codes",
    "Coordinates",
    "CropMap",
    "DataError",
    "Depth",
    "Edges",
    "HeldOut",
    "HeldOutPairs",
    "ImageStream",
    "Keypoints",
    "LowResolution",
    "PairedBatch",
    "PairedStream",
    "Pairs",
    "SampleOrder",
    "Segmentation",
    "UnreadableImageError",
    "batches",
    "class_labels",
    "class_names",
    "codebook_fingerprint",
    "held_out_crops",
    "held_out_pairs",
    "list_images",
    "pair_by_name",
    "rank_positions",
    "read_codes",
    "read_image",
    "to_model_range",
    "to_pixels",
    "tokenize_images",
    "write_codes",
]
