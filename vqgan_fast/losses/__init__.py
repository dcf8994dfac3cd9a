"""Losses of stage 1: reconstruction, perceptual distance, the PatchGAN game; label maps; PSNR."""

from .perceptual import PerceptualLoss, PerceptualWeightsError
from .psnr import psnr_of_each
from .segmentation_loss import SegmentationLoss, pixel_accuracy
from .vqgan_loss import VQGANLoss

__all__ = [
    "PerceptualLoss",
    "PerceptualWeightsError",
    "SegmentationLoss",
    "VQGANLoss",
    "pixel_accuracy",
    "psnr_of_each",
]
