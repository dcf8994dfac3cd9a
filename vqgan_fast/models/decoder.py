"""The convolutional decoder: latents -> image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Level, Middle, Upsample, group_norm


class UpLevel(Level):
    """A level of the decoder; all but the full resolution end in an upsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        attention: bool,
        dropout: float,
        upsample: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, num_blocks, attention, dropout)
        self.upsample = Upsample(out_channels) if upsample else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.upsample(super().forward(h))


class Decoder(nn.Module):
    """(B, z_channels, h, w) -> (B, out_ch, h f, w f) with f = 2^(len(ch_mult) - 1).

    Arguments as the encoder's; each level has one residual block more than the encoder's. `up[i]`
    is the level with the encoder's `down[i]` resolution, so the forward pass runs from the last.
    """

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        resolution: int,
        out_ch: int,
        z_channels: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [ch * multiple for multiple in ch_mult]
        entering = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], dropout)
        self.up = nn.ModuleList(
            UpLevel(
                entering[i],
                widths[i],
                num_res_blocks + 1,
                attention=resolution >> i in attn_resolutions,
                dropout=dropout,
                upsample=i != 0,
            )
            for i in range(len(ch_mult))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
