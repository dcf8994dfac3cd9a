"""The reference's checkpoints and configurations, CompVis/taming-transformers: read and written."""

from .load import load_taming_transformer, load_taming_vqgan
from .save import save_taming

__all__ = ["load_taming_transformer", "load_taming_vqgan", "save_taming"]
