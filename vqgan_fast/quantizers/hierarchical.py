"""Two levels of codes (Razavi, van den Oord, Vinyals 2019, "VQ-VAE-2", Section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Quantizer, QuantizerInfo
from .checks import check_indices, check_integer
from .vector_quantizer import VectorQuantizer


class HierarchicalQuantizer(Quantizer):
    """An upper level of codes, half as many on each side, and a lower one that knows of them.

        t = down(z),            t_q = the upper codes nearest to t
        b = join(z, up(t_q)),   b_q = the lower codes nearest to b
        z_q = merge(b_q, lift(t_q))

    The upper codes say what is seen from afar, the lower ones the rest. Both losses are the sums
    over the levels. Indices are (B, H, W, 2): at each place the upper code there (the same for each
    2 x 2 of them) and the lower one; `levels` and `indices_of` go to and fro between these and
    the codes of each level, which are a quarter more than H W, not twice as many. As in that paper
    the networks between the levels are convolutions with residual blocks, and the next layer (here
    `merge`, before the VQGAN's decoder) sees both levels.

    Args:
        codebook_size, e_dim, beta, legacy: as `Quantizer`; K is that of one level.
        channels: of the networks between the levels.
        num_res_blocks: residual blocks of each of the two.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    codes_per_latent = 2
    restartable = True

    def __init__(
        self,
        codebook_size: int = 512,
        e_dim: int = 64,
        beta: float = 0.25,
        legacy: bool = False,
        channels: int = 128,
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__(codebook_size, e_dim, beta, legacy)
        check_integer("channels", channels)
        check_integer("num_res_blocks", num_res_blocks, minimum=0)
        self.upper = VectorQuantizer(codebook_size, e_dim, beta, legacy)
        self.lower = VectorQuantizer(codebook_size, e_dim, beta, legacy)
        self.down = nn.Sequential(
            nn.Conv2d(e_dim, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            *(Residual(channels) for _ in range(num_res_blocks)),
            nn.ReLU(),
            nn.Conv2d(channels, e_dim, 1),
        )
        self.up = nn.Sequential(
            nn.Conv2d(e_dim, channels, 3, padding=1),
            *(Residual(channels) for _ in range(num_res_blocks)),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, e_dim, 3, padding=1),
        )
        self.join = nn.Conv2d(2 * e_dim, e_dim, 1)
        self.lift = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(e_dim, e_dim, 3, padding=1)
        )
        self.merge = nn.Conv2d(2 * e_dim, e_dim, 1)

    @property
    def num_codes(self) -> int:
        return 2 * self.codebook_size

    @property
    def codebook(self) -> Tensor:
        """The codes of the upper level, then those of the lower: (2 K, D)."""
        return torch.cat(self.codebooks())

    def codebooks(self) -> list[nn.Parameter]:
        return [self.upper.embedding.weight, self.lower.embedding.weight]

    def codebook_latents(self, z: Tensor) -> list[Tensor]:
        z = self._in_type_of_weights(z)
        t = self.down(z)
        b = self._joined(z, self.upper.lookup(self.upper.encode(t)))
        return [latents.movedim(1, -1).flatten(0, -2) for latents in (t, b)]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        self._check_latents(z)
        latents = self._in_type_of_weights(z)
        t_q, upper_loss, upper = self.upper(self.down(latents))
        t_q = self._straight_through(self.upper, t_q, upper.indices)
        b_q, lower_loss, lower = self.lower(self._joined(latents, t_q))
        b_q = self._straight_through(self.lower, b_q, lower.indices)
        info = QuantizerInfo(
            self.indices_of(upper.indices, lower.indices),
            torch.cat([upper.counts, lower.counts]),
            upper.commitment_loss + lower.commitment_loss,
            upper.codebook_loss + lower.codebook_loss,
        )
        return self._merged(t_q, b_q).to(z.dtype), upper_loss + lower_loss, info

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W, 2) int64 of the latents z (B, D, H, W)."""
        self._check_latents(z)
        z = self._in_type_of_weights(z)
        upper = self.upper.encode(self.down(z))
        lower = self.lower.encode(self._joined(z, self.upper.lookup(upper)))
        return self.indices_of(upper, lower)

    def lookup(self, indices: Tensor) -> Tensor:
        """The latents (B, D, H, W) that indices (B, H, W, 2) stand for.

        Raises:
            ValueError: another shape; on the CPU, an index out of range.
        """
        upper, lower = self.levels(indices)
        return self._merged(self.upper.lookup(upper), self.lower.lookup(lower))

    def levels(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of both levels, (B, ceil(H / 2), ceil(W / 2)) and (B, H, W), of their indices.

        Raises:
            ValueError: not (B, H, W, 2); on the CPU, an index out of range.
        """
        check_indices("indices", indices, self.codebook_size)
        if indices.ndim != 4 or indices.shape[-1] != 2:
            raise ValueError(f"indices must be (B, H, W, 2), got {tuple(indices.shape)}")
        return indices[:, ::2, ::2, 0], indices[..., 1]

    def indices_of(self, upper: Tensor, lower: Tensor) -> Tensor:
        """(B, H, W, 2) of upper codes (B, ceil(H / 2), ceil(W / 2)) and lower ones (B, H, W)."""
        spread = upper.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        return torch.stack([_cut(spread, lower), lower], dim=-1)

    def _in_type_of_weights(self, z: Tensor) -> Tensor:
        return z.to(self.join.weight.dtype)

    @staticmethod
    def _straight_through(level: VectorQuantizer, quantized: Tensor, indices: Tensor) -> Tensor:
        """The codes to the bit, as `encode` and `lookup` have them: what `level` returns is z +
        (code - z), which may round to a neighbour, and another lower code be chosen for it."""
        return level.lookup(indices).detach() + (quantized - quantized.detach())

    def _joined(self, z: Tensor, t_q: Tensor) -> Tensor:
        return self.join(torch.cat([z, _cut(self.up(t_q), z)], dim=1))

    def _merged(self, t_q: Tensor, b_q: Tensor) -> Tensor:
        return self.merge(torch.cat([b_q, _cut(self.lift(t_q), b_q)], dim=1))


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), with a quarter of the channels in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        self.first = nn.Conv2d(channels, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def _cut(x: Tensor, like: Tensor) -> Tensor:
    """An upper level made twice as large is a cell too large where a side is odd."""
    return x[..., : like.shape[-2], : like.shape[-1]]
