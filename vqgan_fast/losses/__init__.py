"""Losses of stage 1: reconstruction, perceptual distance and the PatchGAN game; label maps."""

from .perceptual import PerceptualLoss, PerceptualWeightsError
from .segmentation_loss import SegmentationLoss, pixel_accuracy
from .vqgan_loss import VQGANLoss

__all__ = [
    "PerceptualLoss",
    "PerceptualWeightsError",
    "SegmentationLoss",
    "VQGANLoss",
    "pixel_accuracy",
]
