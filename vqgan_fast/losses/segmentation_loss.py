"""Stage-1 loss of a VQGAN on label maps (Esser, Rombach, Ommer, CVPR 2021, Section 4.2).

loss = mean binary cross-entropy of the one-hot labels + codebook_weight * quantizer loss

A label map has no texture, so neither a discriminator nor a perceptual distance takes part.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationLoss(nn.Module):
    """Generator loss for one-hot maps; stands where `VQGANLoss` does, without a discriminator.

    Args:
        codebook_weight: weight of the quantizer's loss.

    Raises:
        ValueError: a negative weight.
    """

    discriminator = None
    perceptual_loss = None

    def __init__(self, codebook_weight: float = 1.0) -> None:
        super().__init__()
        if codebook_weight < 0:
            raise ValueError(f"codebook_weight must not be negative, got {codebook_weight}")
        self.codebook_weight = codebook_weight

    def gan_is_on(self, step: int) -> bool:
        """Never: there is no discriminator."""
        return False

    def generator_loss(
        self, x: Tensor, x_hat: Tensor, quantizer_loss: Tensor, last_layer: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the autoencoder.

        Args:
            x: one-hot labels (B, n_labels, H, W), 0 and 1.
            x_hat: the decoder's outputs of the same shape, taken as logits.
            quantizer_loss: the quantizer's loss; its mean enters.
            last_layer, step: not used.

        Returns:
            loss: scalar.
            logs: detached scalars total_loss, rec_loss (the cross-entropy), quant_loss, accuracy
                (share of the pixels whose largest logit is that of their label).

        Raises:
            ValueError: x and x_hat differ in shape.
        """
        if x.shape != x_hat.shape:
            raise ValueError(
                f"x and x_hat must have the same shape, got {tuple(x.shape)} and "
                f"{tuple(x_hat.shape)}"
            )
        cross_entropy = F.binary_cross_entropy_with_logits(x_hat.float(), x.float())
        loss = cross_entropy + self.codebook_weight * quantizer_loss.mean()
        return loss, {
            "total_loss": loss.detach(),
            "rec_loss": cross_entropy.detach(),
            "quant_loss": quantizer_loss.detach().mean(),
            "accuracy": pixel_accuracy(x, x_hat),
        }


def pixel_accuracy(x: Tensor, x_hat: Tensor) -> Tensor:
    """Share of the pixels whose label is x_hat's largest channel; both (B, n_labels, H, W)."""
    return (x.argmax(1) == x_hat.detach().argmax(1)).float().mean()
