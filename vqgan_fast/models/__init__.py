"""The networks: VQGAN, its discriminator, and the transformer over its codes."""

from .colour_codes import ColourCodes
from .conditions import CombinedCondition, LabelCondition, SOSCondition
from .discriminator import PatchGANDiscriminator
from .gpt import GPT
from .kv_cache import KVCache
from .latent_transformer import LatentTransformer
from .map_conditions import CodesCondition, CoordinateCondition
from .pixel_snail import PixelSNAIL
from .taming import load_taming_transformer
from .vqgan import VQGAN
from .window_gpt import WindowGPT

__all__ = [
    "GPT",
    "VQGAN",
    "CodesCondition",
    "ColourCodes",
    "CombinedCondition",
    "CoordinateCondition",
    "KVCache",
    "LabelCondition",
    "LatentTransformer",
    "PatchGANDiscriminator",
    "PixelSNAIL",
    "SOSCondition",
    "WindowGPT",
    "load_taming_transformer",
]
