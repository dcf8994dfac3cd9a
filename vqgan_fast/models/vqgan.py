"""The first stage: an autoencoder whose latents are codes (Esser et al. 2021, Section 3.1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers import QuantizerInfo, build_quantizer
from ..quantizers.checks import check_integer
from .decoder import Decoder
from .encoder import Encoder
from .layers import GROUPS
from .pretrained import Pretrained


class VQGAN(nn.Module, Pretrained):
    """Encoder, quantiser and decoder. Images are (B, C, H, W) in [-1, 1], H and W multiples of f.

    The number of levels gives the downsampling factor f = 2^(len(ch_mult) - 1): one entry is f1,
    five are f16. State-dict keys are the reference's.

    Args:
        codebook_size: K, the number of codes.
        embed_dim: D, the length of a code.
        ch: channels at full resolution, a multiple of 32.
        ch_mult: channels of each level as multiples of `ch`.
        num_res_blocks: residual blocks of each level (the decoder has one more).
        attn_resolutions: the sides of feature maps, for a `resolution` image, with attention.
        resolution: side of a training image; only places the attention, other sizes work.
        in_channels: channels of the images encoded.
        out_ch: channels of the images decoded.
        z_channels: channels between the encoder or decoder and its 1x1 convolution.
        dropout: rate inside the residual blocks.
        double_z: the encoder gives 2 z_channels, all of which `quant_conv` reads.
        beta: weight of one quantiser loss term.
        legacy: which one, see Quantizer. True as in the reference.
        quantizer: "vector", "ema", "residual", "hierarchical" or another, see
            `vqgan_fast.quantizers`.
        quantizer_options: further arguments of that quantiser, such as {"num_quantizers": 4}.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        embed_dim: int = 256,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        in_channels: int = 3,
        out_ch: int = 3,
        z_channels: int = 256,
        dropout: float = 0.0,
        double_z: bool = False,
        beta: float = 0.25,
        legacy: bool = True,
        quantizer: str = "vector",
        quantizer_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "codebook_size": codebook_size,
            "embed_dim": embed_dim,
            "ch": ch,
            "ch_mult": list(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": list(attn_resolutions),
            "resolution": resolution,
            "in_channels": in_channels,
            "out_ch": out_ch,
            "z_channels": z_channels,
            "dropout": dropout,
            "double_z": double_z,
            "beta": beta,
            "legacy": legacy,
            "quantizer": quantizer,
            "quantizer_options": dict(quantizer_options or {}),
        }
        _check_config(self.config)
        shape = {
            "ch": ch,
            "ch_mult": ch_mult,
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": attn_resolutions,
            "resolution": resolution,
            "z_channels": z_channels,
            "dropout": dropout,
        }
        self.encoder = Encoder(in_channels=in_channels, double_z=double_z, **shape)
        self.decoder = Decoder(out_ch=out_ch, **shape)
        self.quantize = build_quantizer(
            quantizer, codebook_size, embed_dim, beta, legacy, quantizer_options
        )
        self.quant_conv = nn.Conv2d(z_channels * (1 + double_z), embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    @classmethod
    def from_taming(
        cls,
        ckpt: str | os.PathLike[str],
        yaml: str | os.PathLike[str],
        *,
        use_ema: bool | None = None,
        strict: bool = True,
        stage: str = "first_stage",
    ) -> VQGAN:
        """A VQGAN that the reference, or latent diffusion, trained: on the CPU, in eval mode.

        Args:
            ckpt: a Lightning checkpoint, such as `last.ckpt`: of the VQGAN, or of a transformer,
                which holds its VQGANs too. Nothing in it is run.
            yaml: the configuration that it was trained with, such as `...-project.yaml`.
            use_ema: True for averaged weights, False for those last trained, None for the averaged
                ones where the file has any.
            strict: False turns missing and unexpected weights into a warning.
            stage: first_stage, or cond_stage for the one that encodes a transformer's condition.

        Raises:
            FileNotFoundError: a file is missing.
            ConfigError: the YAML file asks for something that has no counterpart here, by name.
            ValueError: the checkpoint is damaged, names code, or does not fit the configuration;
                the message lists what is missing, unexpected and of another shape.
        """
        from .taming import load_taming_vqgan

        return load_taming_vqgan(ckpt, yaml, use_ema=use_ema, strict=strict, stage=stage)

    @classmethod
    def from_diffusers(cls, folder: str | os.PathLike[str], *, strict: bool = True) -> VQGAN:
        """The VQModel of a folder that diffusers' `save_pretrained` wrote.

        Arguments and errors as `from_taming`.
        """
        from .diffusers_layout import load_diffusers

        return load_diffusers(folder, strict=strict)

    @property
    def downsampling_factor(self) -> int:
        """f: pixels for each latent along either side."""
        return 2 ** (len(self.config["ch_mult"]) - 1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, at which the adaptive GAN weight compares gradients."""
        return self.decoder.conv_out.weight

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Quantised latents of images.

        Args:
            x: (B, in_channels, H, W) in [-1, 1] and of the weights' dtype, under autocast of any
                that it casts; H and W multiples of f. The range is not checked: pictures in
                [0, 1] or [0, 255] give codes too, but not those of what they show.

        Returns:
            z_q (B, embed_dim, H / f, W / f), the quantiser's loss, QuantizerInfo.

        Raises:
            TypeError: x is no tensor.
            ValueError: another shape or dtype.
        """
        return self.quantize(self._latents(x))

    def encode_indices(self, x: Tensor) -> Tensor:
        """Codes (B, H / f, W / f) int64 of images x in [-1, 1]; arguments and errors as `encode`.

        Images of another range, such as [0, 255], give other codes, without an error. A residual
        quantiser's codes have a last axis, one for each stage.
        """
        return self.quantize.encode(self._latents(x))

    def decode(self, z_q: Tensor) -> Tensor:
        """Images (B, out_ch, h f, w f) of quantised latents (B, embed_dim, h, w); not clamped."""
        return self.decoder(self.post_quant_conv(z_q))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Images (B, out_ch, h f, w f) of codes (B, h, w); ValueError for one out of range."""
        form = "(B, h, w)" if self.quantize.codes_per_latent == 1 else "(B, h, w, Q)"
        if indices.ndim != form.count(",") + 1:
            raise ValueError(f"indices must be {form}, got {tuple(indices.shape)}")
        return self.decode(self.quantize.lookup(indices))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Reconstructions of x, the quantiser's loss, QuantizerInfo; arguments as `encode`."""
        z_q, quantizer_loss, info = self.encode(x)
        return self.decode(z_q), quantizer_loss, info

    def _latents(self, x: Tensor) -> Tensor:
        channels, factor = self.config["in_channels"], self.downsampling_factor
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"x must be (B, C, H, W) with C = {channels}, got {tuple(x.shape)}")
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x must have a height and width that are multiples of the downsampling factor "
                f"{factor}, got {x.shape[2]} x {x.shape[3]}"
            )
        if not x.is_floating_point():
            raise ValueError(f"x must be floating point in [-1, 1], got {x.dtype}")
        weights = self.quant_conv.weight.dtype
        # Autocast gives pictures and weights one type, but leaves fp64 as it is.
        device = x.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if x.dtype != weights and (torch.float64 in (x.dtype, weights) or not autocast):
            raise ValueError(f"x must be {weights}, as the weights are, got {x.dtype}")
        return self.quant_conv(self.encoder(x))


def _check_config(config: dict) -> None:
    """Checks what the parts cannot see or would report in their own terms."""
    for name in (
        "codebook_size", "embed_dim", "ch", "num_res_blocks", "resolution", "in_channels",
        "out_ch", "z_channels",
    ):  # fmt: skip
        check_integer(name, config[name])
    ch, ch_mult, resolution = config["ch"], config["ch_mult"], config["resolution"]
    if not ch_mult or any(not isinstance(m, Integral) or m < 1 for m in ch_mult):
        raise ValueError(f"ch_mult must be a non-empty list of positive integers, got {ch_mult}")
    if ch % GROUPS:
        raise ValueError(
            f"ch must be a multiple of {GROUPS}, the number of groups of each GroupNorm (so that "
            f"ch * ch_mult is one at every level), got ch = {ch}"
        )
    factor = 2 ** (len(ch_mult) - 1)
    if resolution % factor:
        raise ValueError(
            f"resolution must be a multiple of the downsampling factor {factor} that "
            f"ch_mult = {ch_mult} gives, got {resolution}"
        )
    if not 0 <= config["dropout"] < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {config['dropout']}")
