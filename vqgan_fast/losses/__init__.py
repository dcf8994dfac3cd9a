"""Losses of stage 1: reconstruction, perceptual distance and the PatchGAN game."""

from .perceptual import PerceptualLoss, PerceptualWeightsError
from .vqgan_loss import VQGANLoss

__all__ = ["PerceptualLoss", "PerceptualWeightsError", "VQGANLoss"]
