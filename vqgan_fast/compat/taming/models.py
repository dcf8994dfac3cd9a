"""`taming.models.vqgan` for encoding and decoding, as VQGAN-CLIP and samplers use it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...models.taming.checkpoint import read_state_dict
from .gumbel import GumbelQuantize
from .losses import DummyLoss
from .networks import Decoder, Encoder
from .quantizers import VectorQuantizer2


class VQModel(nn.Module):
    """Stands in for `taming.models.vqgan.VQModel`, without its training. State dict: its own.

    Args:
        ddconfig: arguments of Encoder and Decoder.
        lossconfig: not looked at; the attribute `loss` is a DummyLoss.
        n_embed: K, the number of codes.
        embed_dim: D, the length of a code.
        ckpt_path: a checkpoint to start from, see `init_from_ckpt`.
        ignore_keys: prefixes of keys that are not taken from it.
        image_key, monitor: kept as attributes.
        colorize_nlabels: not covered.
        remap, sane_index_shape: of the quantiser.

    Raises:
        NotImplementedError: an option that is not covered, named.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Any,
        n_embed: int,
        embed_dim: int,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: int | None = None,
        monitor: str | None = None,
        remap: str | None = None,
        sane_index_shape: bool = False,
    ) -> None:
        super().__init__()
        if colorize_nlabels is not None:
            raise NotImplementedError(f"colorize_nlabels = {colorize_nlabels!r} is not covered")
        self.image_key = image_key
        self.monitor = monitor
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.loss = DummyLoss()
        self.quantize = self._quantizer(ddconfig, n_embed, embed_dim, remap, sane_index_shape)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def init_from_ckpt(self, path: str | os.PathLike[str], ignore_keys: Sequence[str] = ()) -> None:
        """Loads `state_dict` of a checkpoint; keys that do not belong here are left out, as there.

        Only tensors and plain containers are unpickled, and nothing of a damaged file is loaded.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, names code, or holds no state dict.
        """
        ignored = tuple(ignore_keys)
        weights = {
            key: value
            for key, value in read_state_dict(path).items()
            if not key.startswith(ignored)
        }
        self.load_state_dict(weights, strict=False)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """z_q, the quantiser's loss and its info, of images (B, C, H, W) in [-1, 1]."""
        return self.quantize(self.quant_conv(self.encoder(x)))

    def decode(self, quant: Tensor) -> Tensor:
        """Images of quantised latents (B, D, h, w)."""
        return self.decoder(self.post_quant_conv(quant))

    def decode_code(self, code_b: Tensor) -> Tensor:
        """Images of codes (B, h, w)."""
        codes = self.quantize.get_codebook_entry(code_b.flatten(), None)
        return self.decode(codes.view(*code_b.shape, -1).permute(0, 3, 1, 2).contiguous())

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions of images, and the quantiser's loss."""
        quant, loss, _ = self.encode(input)
        return self.decode(quant), loss

    def get_last_layer(self) -> nn.Parameter:
        return self.decoder.conv_out.weight

    def _quantizer(
        self, ddconfig: Mapping[str, Any], n_embed: int, embed_dim: int, remap: Any, sane: bool
    ) -> nn.Module:
        return VectorQuantizer2(n_embed, embed_dim, 0.25, remap=remap, sane_index_shape=sane)


class GumbelVQ(VQModel):
    """Stands in for `taming.models.vqgan.GumbelVQ`, without its training.

    Args:
        temperature_scheduler_config: not looked at; the quantiser's temperature is 1.
        kl_weight: of the quantiser.
        others: as VQModel.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Any,
        n_embed: int,
        embed_dim: int,
        temperature_scheduler_config: Any,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: int | None = None,
        monitor: str | None = None,
        kl_weight: float = 1e-8,
        remap: str | None = None,
    ) -> None:
        self._kl_weight = kl_weight
        super().__init__(
            ddconfig, lossconfig, n_embed, embed_dim, ckpt_path, ignore_keys, image_key,
            colorize_nlabels, monitor, remap,
        )  # fmt: skip
        self.vocab_size = n_embed

    def encode_to_prequant(self, x: Tensor) -> Tensor:
        """Latents (B, D, h, w) before the quantiser."""
        return self.quant_conv(self.encoder(x))

    def decode_code(self, code_b: Tensor) -> Tensor:
        """Images of codes (B, h, w)."""
        shape = (*code_b.shape, self.quantize.embedding_dim)
        return self.decode(self.quantize.get_codebook_entry(code_b.flatten(), shape))

    def _quantizer(
        self, ddconfig: Mapping[str, Any], n_embed: int, embed_dim: int, remap: Any, sane: bool
    ) -> nn.Module:
        # As in the reference, the convolution before it gives embed_dim channels: the two must
        # agree.
        return GumbelQuantize(
            ddconfig["z_channels"], embed_dim, n_embed, kl_weight=self._kl_weight, remap=remap
        )


class Net2NetTransformer(nn.Module):
    """`taming.models.cond_transformer.Net2NetTransformer` is not covered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "Net2NetTransformer is not covered: vqgan_fast.LatentTransformer is our second stage"
        )
