"""The second stage: a transformer over the codes of a frozen first stage (Section 3.2)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers.checks import check_integer, check_number, check_tensor
from .code_logits import code_logits
from .colour_codes import ColourCodes
from .condition_files import build_condition, save_condition
from .conditions import Condition, Tokens, filled_tokens
from .gpt import GPT
from .pixel_snail import PixelSNAIL
from .pretrained import CONFIG_FILE, read_config, saved_class, write_config
from .vqgan import VQGAN
from .window_gpt import WindowGPT

Transformer = GPT | WindowGPT | PixelSNAIL


class LatentTransformer(nn.Module):
    """Predicts the codes of an image one after another, row by row, behind a condition's tokens.

    Codes and condition tokens share one vocabulary. The first stage and the condition are frozen:
    they take no gradient and stay in eval mode whatever `train()` says.

    Args:
        first_stage_model: encodes images to codes and decodes codes to images.
        cond_stage_model: gives the tokens before the codes, see `conditions`.
        transformer: the GPT, WindowGPT or PixelSNAIL that is trained.
        pkeep: probability with which each input code is kept in training; the others are replaced
            by random tokens, which regularises small data sets. 1 keeps all.
        null_token: stands in each place of a condition that is dropped, for a transformer that was
            trained to do without (what guidance needs); None for one that was not.
        grid: (H, W), in codes, of the pictures that it is trained on; None where nobody knows.

    Raises:
        ValueError: pkeep outside [0, 1], a null_token that is no token, a residual first stage, a
            vocabulary too small for codes, condition or null_token, a grid that is not two positive
            integers, or a transformer that leaves more tokens unmasked than the condition has: it
            would see the codes that it is to predict.
    """

    def __init__(
        self,
        first_stage_model: VQGAN | ColourCodes,
        cond_stage_model: Condition,
        transformer: Transformer,
        pkeep: float = 1.0,
        null_token: int | None = None,
        grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_number("pkeep", pkeep)
        if not 0 <= pkeep <= 1:
            raise ValueError(f"pkeep must lie in [0, 1], got {pkeep}")
        if null_token is not None:
            check_integer("null_token", null_token, minimum=0)
        if first_stage_model.quantize.codes_per_latent != 1:
            raise ValueError(
                "first_stage_model must have one code for each latent, got a quantiser with "
                f"{first_stage_model.quantize.codes_per_latent}"
            )
        needed = max(
            first_stage_model.quantize.codebook_size,
            cond_stage_model.vocab_size,
            0 if null_token is None else null_token + 1,
        )
        if transformer.vocab_size < needed:
            raise ValueError(
                f"transformer must have a vocab_size of at least {needed} (codes and condition "
                f"tokens share it), got {transformer.vocab_size}"
            )
        if grid is not None:
            if not isinstance(grid, Iterable) or len(grid) != 2:
                raise ValueError(f"grid must be (H, W) in codes, got {grid}")
            for side in grid:
                check_integer("grid", side)
        if cond_stage_model.num_grids == 0:  # with a grid, `forward` sees how long it is
            check_unmasked(transformer, cond_stage_model.num_tokens)
        self.first_stage_model = first_stage_model.requires_grad_(False)
        self.cond_stage_model = cond_stage_model.requires_grad_(False)
        self.transformer = transformer
        self.pkeep = pkeep
        self.null_token = null_token if null_token is None else int(null_token)
        self.grid = None if grid is None else (int(grid[0]), int(grid[1]))
        self.train(self.training)

    @property
    def config(self) -> dict[str, Any]:
        """What config.json holds besides the two models' own folders."""
        config = {"condition": self.cond_stage_model.config, "pkeep": self.pkeep}
        if self.null_token is not None:
            config["null_token"] = self.null_token
        if self.grid is not None:
            config["grid"] = list(self.grid)
        return config

    def train(self, mode: bool = True) -> LatentTransformer:
        """Training mode for the transformer only."""
        super().train(mode)
        self.first_stage_model.eval()
        self.cond_stage_model.eval()
        return self

    @torch.no_grad()
    def encode_to_codes(self, x: Tensor) -> Tensor:
        """Codes (B, h, w) of images (B, C, H, W).

        Autocast is switched off inside: a picture's codes must not depend on how the transformer
        is trained. TypeError if x is no tensor.
        """
        check_tensor("x", x)
        with torch.autocast(x.device.type, enabled=False):
            return self.first_stage_model.encode_indices(x)

    def dropped(self, condition: Tokens) -> Tokens:
        """Tokens like a condition's that say that there is none; ValueError without null_token."""
        if self.null_token is None:
            raise ValueError(
                "the transformer was not trained to do without its condition (cond_drop_prob = 0)"
            )
        return filled_tokens(condition, self.null_token)

    def forward(
        self,
        x: Tensor,
        condition_input: Any = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of every code of an image, given the condition and the codes before it.

        In training pkeep replaces codes here, but no condition is dropped, whatever null_token is:
        `vqgan_fast.train` does both by itself (`replace_codes`, `drop_some`), by draws that depend
        on a sample's position alone, not on its batch.

        Args:
            x: images (B, C, H, W) in [-1, 1], or their codes, int64 (B, h, w), or (B, h w) for a
                GPT, which needs no height and width.
            condition_input: what the condition is made of; None for SOSCondition.
            generator: draws the codes that pkeep < 1 replaces in training; required then.

        Returns:
            Logits (B, h w, vocab_size) and the target codes (B, h w), for the cross-entropy.

        Raises:
            TypeError: x, or a condition_input that must be one, is no tensor.
            ValueError: another dtype or shape; pkeep < 1 in training without a generator; a
                sequence longer than the transformer's block_size; what encoder and transformer
                refuse.
        """
        check_tensor("x", x)
        if not x.is_floating_point() and x.dtype != torch.int64:
            raise ValueError(f"x must be floating-point images or int64 codes, got {x.dtype}")
        if not x.is_floating_point() and x.ndim not in (2, 3):
            raise ValueError(f"x must be codes (B, h, w) or (B, h w), got {tuple(x.shape)}")
        codes = self.encode_to_codes(x) if x.is_floating_point() else x
        condition = self.cond_stage_model(len(codes), codes.device, condition_input)
        check_unmasked(self.transformer, self.cond_stage_model.length(codes[0].numel()))
        inputs = self._replace_some(codes, generator) if self.training else codes
        return code_logits(self.transformer, condition, inputs), codes.flatten(1)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        gpt_state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Writes `vqgan/`, `gpt/`, the condition's VQGAN and config.json, each file atomically.

        Args:
            folder: made where missing.
            gpt_state_dict: weights to write for the transformer instead of its own.
        """
        folder = Path(folder)
        self.first_stage_model.save_pretrained(folder / "vqgan")
        save_condition(self.cond_stage_model, folder)
        self.transformer.save_pretrained(folder / "gpt", gpt_state_dict)
        write_config(folder, type(self).__name__, self.config)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> LatentTransformer:
        """Builds the model of a folder that `save_pretrained` wrote: on the CPU, in eval mode.

        Raises:
            FileNotFoundError, ValueError: as VQGAN.from_pretrained.
        """
        folder = Path(folder)
        config = read_config(folder, cls.__name__)
        first_stage = load_first_stage(folder / "vqgan")
        transformer = load_transformer(folder / "gpt")
        try:
            condition = build_condition(config.pop("condition", None), folder, first_stage)
            return cls(first_stage, condition, transformer, **config).eval()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG_FILE} does not fit its model: {error}") from error

    def _replace_some(self, codes: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.pkeep == 1:
            return codes
        if generator is None:
            raise ValueError("generator must be given in training with pkeep < 1, got None")
        device = generator.device
        keep = torch.rand(codes.shape, generator=generator, device=device) < self.pkeep
        random = torch.randint(
            self.transformer.vocab_size, codes.shape, generator=generator, device=device
        )
        return torch.where(keep.to(codes.device), codes, random.to(codes.device))


def check_unmasked(transformer: Transformer, length: int) -> None:
    """ValueError if a transformer leaves more tokens unmasked than its condition has."""
    if transformer.n_unmasked > length:
        raise ValueError(
            f"transformer must have an n_unmasked of at most {length}, the condition's tokens, got "
            f"{transformer.n_unmasked}"
        )


def load_first_stage(folder: Path) -> VQGAN | ColourCodes:
    """The first stage that a folder's config.json names; errors as `from_pretrained`."""
    kind = ColourCodes if saved_class(folder) == ColourCodes.__name__ else VQGAN
    return kind.from_pretrained(folder)


def load_transformer(folder: Path) -> Transformer:
    """The transformer that a folder's config.json names; errors as `from_pretrained`."""
    kinds = {kind.__name__: kind for kind in (GPT, WindowGPT, PixelSNAIL)}
    return kinds.get(saved_class(folder), GPT).from_pretrained(folder)
