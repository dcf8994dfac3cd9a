"""How much of a picture its codes keep."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import to_model_range, to_pixels
from ..losses import PerceptualLoss, psnr_of_each
from ..models import VQGAN
from ..quantizers import perplexity, usage


class ReconstructionMeasures:
    """Adds up figures over batches of pictures that a VQGAN has reconstructed.

    All of them are taken on the 8-bit pictures, as they would be saved:

    - psnr: -10 log10 of the mean squared error at peak 1, in dB, at most 100, mean over the
      pictures;
    - ssim: structural similarity (Wang et al. 2004: Gaussian window of sigma 1.5), mean over
      pictures and channels; 1 is equal. Computed by scikit-image;
    - lpips: the perceptual distance (Zhang et al. 2018), mean over the pictures;
    - codebook_usage, perplexity: of the codes of all pictures together.

    Args:
        model: in eval mode, on the device that is to do the work.
        perceptual: measures LPIPS; None leaves it out.
    """

    def __init__(self, model: VQGAN, perceptual: PerceptualLoss | None = None) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.perceptual = None if perceptual is None else perceptual.to(self.device)
        self.counts = torch.zeros(model.quantize.num_codes, dtype=torch.int64)
        self.values: dict[str, list[float]] = {"psnr": [], "ssim": []}
        if perceptual is not None:
            self.values["lpips"] = []

    @torch.inference_mode()
    def add(self, images: Tensor) -> Tensor:
        """Measures uint8 pictures (B, 3, S, S); returns their reconstructions, the same."""
        x_hat, _, info = self.model(to_model_range(images, self.device))
        pixels = to_pixels(x_hat)
        self.counts += info.counts.cpu()
        error = (images.double() - pixels.double()).div(255).square().mean(dim=(1, 2, 3))
        self.values["psnr"] += psnr_of_each(error).tolist()
        self.values["ssim"] += [
            structural_similarity(a, b) for a, b in zip(images, pixels, strict=True)
        ]
        if self.perceptual is not None:
            pair = (to_model_range(part, self.device) for part in (images, pixels))
            self.values["lpips"] += self.perceptual(*pair).flatten().tolist()
        return pixels

    def figures(self) -> dict[str, float | int]:
        """The means so far, and what the codes of all pictures say of the codebook."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        return {
            "pictures": len(self.values["psnr"]),
            **means,
            "codes": int(self.counts.sum()),
            "codebook_usage": float(usage(self.counts)),
            "perplexity": float(perplexity(self.counts)),
        }


def structural_similarity(a: Tensor, b: Tensor) -> float:
    """SSIM of two uint8 pictures (3, H, W); ValueError for fewer than 11 pixels on a side."""
    from skimage.metrics import structural_similarity as ssim

    if min(a.shape[1:]) < 11:
        raise ValueError(f"SSIM needs pictures of at least 11 x 11 pixels, got {tuple(a.shape)}")
    return float(
        ssim(
            a.numpy(), b.numpy(), channel_axis=0, data_range=255,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
    )  # fmt: skip
