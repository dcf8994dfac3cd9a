"""Pictures and codes as training data."""

from .classes import ClassLabel, class_labels, class_names
from .code_folder import Place, read_codes, write_code_folder
from .codes import Codes, codebook_fingerprint, tokenize_images, write_codes
from .fingerprint import data_fingerprint, pictures_fingerprint, weights_fingerprint
from .held_out import HeldOut, HeldOutPairs, held_out_crops, held_out_pairs
from .images import DataError, UnreadableImageError, list_images, read_image
from .keypoints import Keypoints, pair_with_keypoints
from .maps import Coordinates, CropMap, Depth, Edges, LowResolution, Segmentation
from .order import SampleOrder, rank_positions
from .pairs import PairedBatch, PairedStream, Pairs, pair_by_name
from .shard_index import index_shard
from .shards import ShardedPictures, ShardMember, list_shards, open_pictures
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
    "Place",
    "SampleOrder",
    "Segmentation",
    "ShardMember",
    "ShardedPictures",
    "UnreadableImageError",
    "batches",
    "class_labels",
    "class_names",
    "codebook_fingerprint",
    "data_fingerprint",
    "held_out_crops",
    "held_out_pairs",
    "index_shard",
    "list_images",
    "list_shards",
    "open_pictures",
    "pair_by_name",
    "pair_with_keypoints",
    "pictures_fingerprint",
    "rank_positions",
    "read_codes",
    "read_image",
    "to_model_range",
    "to_pixels",
    "tokenize_images",
    "weights_fingerprint",
    "write_code_folder",
    "write_codes",
]
