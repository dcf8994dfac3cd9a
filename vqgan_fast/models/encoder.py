"""The convolutional encoder: image -> latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Downsample, Level, Middle, group_norm


class DownLevel(Level):
    """A level of the encoder; all but the lowest resolution end in a downsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        attention: bool,
        dropout: float,
        downsample: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, num_blocks, attention, dropout)
        self.downsample = Downsample(out_channels) if downsample else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.downsample(super().forward(h))


class Encoder(nn.Module):
    """(B, in_channels, H, W) -> (B, z_channels, H / f, W / f) with f = 2^(len(ch_mult) - 1).

    Args:
        ch: channels at full resolution; a multiple of 32.
        ch_mult: channels of each level as multiples of `ch`, from full resolution down.
        num_res_blocks: residual blocks of each level.
        attn_resolutions: the sides, in pixels of a `resolution` image, of levels with attention.
        resolution: the side of training images; only places the attention.
        in_channels: channels of the image.
        z_channels: channels of the latents; twice as many with `double_z`.
        dropout: rate inside the residual blocks.
        double_z: two values for each latent channel (mean and log variance of a KL autoencoder).
    """

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        resolution: int,
        in_channels: int,
        z_channels: int,
        dropout: float = 0.0,
        double_z: bool = False,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        widths = [ch] + [ch * multiple for multiple in ch_mult]
        lowest = len(ch_mult) - 1
        self.down = nn.ModuleList(
            DownLevel(
                widths[i],
                widths[i + 1],
                num_res_blocks,
                attention=resolution >> i in attn_resolutions,
                dropout=dropout,
                downsample=i != lowest,
            )
            for i in range(len(ch_mult))
        )
        self.mid = Middle(widths[-1], dropout)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels * (1 + double_z), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))
