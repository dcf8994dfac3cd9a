"""The sizes of crops, networks and conditions that must fit each other."""

from __future__ import annotations

from collections.abc import Sequence

from vqgan_fast.losses.perceptual import SMALLEST_SIDES
from vqgan_fast.models.discriminator import smallest_side

from .config import ConfigError, TransformerDataConfig, VQGANRun


def check_divisible(size: int, factor: int) -> None:
    """The side of a crop must be a whole number of codes."""
    if size % factor:
        raise ConfigError(
            f"data.size must be a multiple of the VQGAN's downsampling factor f = {factor}, got "
            f"{size}; the nearest is {max(factor, round(size / factor) * factor)}"
        )


def codes_beside_size(data: TransformerDataConfig, grid: Sequence[int], factor: int) -> str | None:
    """How data.size contradicts the grid of data.codes; None where it does not.

    Training takes the codes as they are. Held-out pictures are cropped as data.size says.

    Raises:
        ConfigError: there are held-out pictures, which would give other grids.
    """
    height, width = (side * factor for side in grid)
    if (height, width) == (data.size, data.size):
        return None
    text = (
        f"data.size = {data.size} contradicts data.codes = {data.codes}, whose {grid[0]} x "
        f"{grid[1]} codes are of crops of {height} x {width} pixels"
    )
    if data.validation is not None:
        raise ConfigError(
            f"{text}: the pictures of data.validation are cropped to data.size, and must have as "
            "many codes"
        )
    return f"{text}: data.size is not used"


def check_discriminator(config: VQGANRun) -> None:
    """Crops hold a patch of a discriminator that will train: it would say so when it starts."""
    loss, size = config.loss, config.data.size
    starts = loss.disc_factor > 0 and loss.disc_start < config.optim.steps
    least = smallest_side(loss.disc_num_layers)
    if loss.kind == "vqgan" and starts and size < least:
        raise ConfigError(
            f"data.size must be at least {least}, the smallest picture of a discriminator with "
            f"loss.disc_num_layers = {loss.disc_num_layers}, got {size}"
        )


def check_perceptual(config: VQGANRun) -> None:
    """Crops leave something in every layer of the perceptual network, where there is one."""
    loss, size = config.loss, config.data.size
    least = SMALLEST_SIDES[loss.perceptual_net]
    if loss.kind == "vqgan" and loss.perceptual_weight > 0 and size < least:
        raise ConfigError(
            f"data.size must be at least {least}, the smallest picture of loss.perceptual_net = "
            f"{loss.perceptual_net}, got {size}; or leave it out with loss.perceptual_weight=0"
        )


def check_unmasked(n_unmasked: int, known: int) -> None:
    """Tokens that see each other are among the condition's, `known` in number."""
    if n_unmasked > known:
        raise ConfigError(
            f"gpt.n_unmasked must be at most {known}, the condition's tokens, got {n_unmasked}"
        )
