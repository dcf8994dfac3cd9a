"""Parts of `taming.modules.losses` that latent diffusion imports."""

from __future__ import annotations

from torch import Tensor, nn

from ...losses.perceptual import PerceptualLoss
from ...losses.vqgan_loss import hinge_loss as hinge_d_loss
from ...losses.vqgan_loss import vanilla_loss as vanilla_d_loss

__all__ = ["LPIPS", "DummyLoss", "adopt_weight", "hinge_d_loss", "vanilla_d_loss"]


class DummyLoss(nn.Module):
    """Stands where a model wants a loss and none is used."""


class LPIPS(PerceptualLoss):
    """Stands in for the reference's `LPIPS`: weights come with the package `lpips`, not by
    download.

    Values are the reference's. The state dict is that package's, and gradients reach the second
    argument only.
    """

    def __init__(self, use_dropout: bool = True) -> None:
        super().__init__("vgg")


def adopt_weight(
    weight: float | Tensor, global_step: int, threshold: int = 0, value: float = 0.0
) -> float | Tensor:
    """`value` before step `threshold`, `weight` from it on."""
    return value if global_step < threshold else weight
