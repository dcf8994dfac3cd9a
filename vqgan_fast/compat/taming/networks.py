"""The reference's encoder, decoder and discriminator: its arguments around our networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...models import decoder, encoder
from ...models.discriminator import PatchGANDiscriminator


class Encoder(encoder.Encoder):
    """Stands in for `taming.modules.diffusionmodules.model.Encoder`; state dict and values its own.

    Arguments are those of its `ddconfig`; unknown ones are ignored, as there. Its numbers are
    attributes, as there: VQGAN-CLIP reads `num_resolutions`.

    Raises:
        NotImplementedError: resamp_with_conv is False.
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        z_channels: int,
        double_z: bool = True,
        **ignored: Any,
    ) -> None:
        _refuse(resamp_with_conv=(resamp_with_conv, True))
        super().__init__(
            ch=ch, ch_mult=ch_mult, num_res_blocks=num_res_blocks, resolution=resolution,
            attn_resolutions=attn_resolutions, in_channels=in_channels, z_channels=z_channels,
            dropout=dropout, double_z=double_z,
        )  # fmt: skip
        _keep_sizes(self, ch, ch_mult, num_res_blocks, resolution, in_channels)


class Decoder(decoder.Decoder):
    """Stands in for `taming.modules.diffusionmodules.model.Decoder`; state dict and values its own.

    Arguments are those of its `ddconfig`; unknown ones are ignored, as there. Its numbers are
    attributes, as there: VQGAN-CLIP reads `num_resolutions`.

    Raises:
        NotImplementedError: resamp_with_conv is False or give_pre_end is True.
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        z_channels: int,
        give_pre_end: bool = False,
        **ignored: Any,
    ) -> None:
        _refuse(resamp_with_conv=(resamp_with_conv, True), give_pre_end=(give_pre_end, False))
        super().__init__(
            ch=ch, ch_mult=ch_mult, num_res_blocks=num_res_blocks, resolution=resolution,
            attn_resolutions=attn_resolutions, out_ch=out_ch, z_channels=z_channels,
            dropout=dropout,
        )  # fmt: skip
        _keep_sizes(self, ch, ch_mult, num_res_blocks, resolution, in_channels)
        self.give_pre_end = give_pre_end
        lowest = resolution >> (len(ch_mult) - 1)
        self.z_shape = (1, z_channels, lowest, lowest)


class NLayerDiscriminator(PatchGANDiscriminator):
    """Stands in for `taming.modules.discriminator.model.NLayerDiscriminator`."""

    def __init__(
        self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3, use_actnorm: bool = False
    ) -> None:
        super().__init__(input_nc, ndf, n_layers, use_actnorm)


def weights_init(module: nn.Module) -> None:
    """For `module.apply`: convolutions from N(0, .02), batch norms' scales from N(1, .02)."""
    name = type(module).__name__
    if "Conv" in name:
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif "BatchNorm" in name:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _keep_sizes(
    network: nn.Module,
    ch: int,
    ch_mult: Sequence[int],
    num_res_blocks: int,
    resolution: int,
    in_channels: int,
) -> None:
    network.ch = ch
    network.temb_ch = 0
    network.num_resolutions = len(ch_mult)
    network.num_res_blocks = num_res_blocks
    network.resolution = resolution
    network.in_channels = in_channels


def _refuse(**options: tuple[Any, Any]) -> None:
    for name, (given, only) in options.items():
        if given != only:
            raise NotImplementedError(f"{name} = {given!r} is not covered, only {only!r}")
