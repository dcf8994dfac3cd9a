"""CLIP as a score: how well a picture fits a text (Radford et al., ICML 2021)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The mean and deviation of the pictures that CLIP was trained on, for values in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
USUAL = "openai/clip-vit-base-patch32"


class ClipUnavailableError(RuntimeError):
    """CLIP's weights are not here; the message says where from and where to."""


class ClipScore(nn.Module):
    """The likeness of pictures and a text under a CLIP model of the transformers package.

    The score is minus half the squared angle between the two embeddings, as is usual in VQGAN+CLIP:
    0 is the best.

    Args:
        prompt: the text.
        model: a folder that holds a CLIP model and its tokenizer, or the name of one that is in the
            cache of transformers already (nothing is fetched).
        device: where the model runs.

    Attributes:
        size: side in pixels of the pictures that the model takes.

    Raises:
        ClipUnavailableError: there is no such model here.
        ModuleNotFoundError: transformers is not installed.
    """

    def __init__(
        self,
        prompt: str,
        model: str | os.PathLike[str] = USUAL,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        clip, tokenizer = _load(model)
        self.vision, self.projection = clip.vision_model, clip.visual_projection
        self.size = clip.config.vision_config.image_size
        with torch.no_grad():
            tokens = tokenizer([prompt], return_tensors="pt", truncation=True)
            known, largest = clip.config.text_config.vocab_size, int(tokens["input_ids"].max())
            if largest >= known:
                raise ClipUnavailableError(
                    f"{model} has a tokenizer of another model: it gives token {largest} where the "
                    f"model knows {known}"
                )
            text = clip.text_projection(clip.text_model(**tokens).pooler_output)
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(False).eval().to(device)

    def forward(self, images: Tensor) -> Tensor:
        """(N,) of images (N, 3, H, W) in [-1, 1], of any size."""
        pixels = (images.float() + 1) / 2
        if images.shape[2:] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
        pixels = (pixels - self.mean) / self.deviation
        found = self.projection(self.vision(pixel_values=pixels).pooler_output)
        # Twice the arcsine of half the chord is the angle.
        chord = (F.normalize(found, dim=-1) - self.text).norm(dim=-1)
        return -2 * (chord / 2).clamp_max(1 - 1e-6).arcsin().square()


def _load(model: str | os.PathLike[str]) -> tuple[nn.Module, object]:
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ClipScore needs the transformers package: pip install transformers"
        ) from error
    try:
        clip = CLIPModel.from_pretrained(model, local_files_only=True)
        return clip, AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        name, reason = str(model), str(error).splitlines()[0]
        if Path(model).is_dir():
            what = f"the folder {name} holds no CLIP model of the transformers package: {reason}"
        elif name.count("/") > 1 or name.startswith((".", "/")) or name.endswith("/"):
            what = f"there is no folder {name} to read a CLIP model from"
        else:
            what = f"there is neither a folder {name} nor such a CLIP model in transformers' cache"
        raise ClipUnavailableError(
            f"{what}\nFetch one on a machine with a network (huggingface-cli download {USUAL} "
            "--local-dir clip) and give its folder as the model, or fill the cache (it follows "
            "HF_HOME); or use a score that needs none."
        ) from error
