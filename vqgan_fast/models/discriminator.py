"""The patch discriminator (Isola et al. 2017; Esser et al. 2021, Section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from ..quantizers.checks import check_integer
from .actnorm import ActNorm


class PatchGANDiscriminator(nn.Module):
    """One logit for each patch: (B, in_channels, H, W) -> (B, 1, h, w), h = H // 2^n_layers - 2.

    4x4 convolutions with leaky ReLU; the first `n_layers` have stride 2. Weights start from
    N(0, 0.02), those of BatchNorm from N(1, 0.02). State-dict keys (`main.*`) are the reference's.

    Args:
        in_channels: channels of the images.
        ndf: channels after the first convolution; doubled by each further one up to 8 ndf.
        n_layers: number of stride-2 convolutions.
        use_actnorm: ActNorm instead of BatchNorm.
    """

    def __init__(
        self, in_channels: int = 3, ndf: int = 64, n_layers: int = 3, use_actnorm: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("ndf", ndf), ("n_layers", n_layers)):
            check_integer(name, value)
        self.in_channels = in_channels
        self.smallest_side = smallest_side(n_layers)
        norm = ActNorm if use_actnorm else nn.BatchNorm2d
        widths = [ndf * min(2**i, 8) for i in range(n_layers + 1)]
        layers = [nn.Conv2d(in_channels, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        for i in range(1, n_layers + 1):
            layers += [
                nn.Conv2d(
                    widths[i - 1],
                    widths[i],
                    4,
                    stride=2 if i < n_layers else 1,
                    padding=1,
                    bias=use_actnorm,  # BatchNorm has its own
                ),
                norm(widths[i]),
                nn.LeakyReLU(0.2, True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [-1, 1], high for real patches.

        Raises:
            ValueError: another number of channels, or a side that leaves no patch.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x must be (B, C, H, W) with C = {self.in_channels}, got {tuple(x.shape)}"
            )
        if min(x.shape[2:]) < self.smallest_side:
            raise ValueError(
                f"x must be at least {self.smallest_side} pixels on each side for this number of "
                f"layers, got {x.shape[2]} x {x.shape[3]}"
            )
        return self.main(x)


def smallest_side(n_layers: int) -> int:
    """Pixels on each side that leave a patch."""
    return 3 * 2**n_layers


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
