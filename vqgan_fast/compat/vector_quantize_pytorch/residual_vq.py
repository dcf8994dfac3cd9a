"""ResidualVQ of vector-quantize-pytorch."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ...quantizers.checks import check_indices, check_integer, check_tensor
from .gradients import directional_reparam
from .layout import check_latents
from .options import check_sizes, refuse, require
from .vector_quantize import VectorQuantize


class ResidualVQ(nn.Module):
    """Quantises latents, then what is left of them, and so on (Zeghidour et al., 2021, alg. 1).

    A drop-in for `vector_quantize_pytorch.ResidualVQ` (read from release 1.32): the same arguments,
    results, state-dict keys, gradients and use of torch's random numbers. Beam search and implicit
    neural codebooks raise NotImplementedError. Images, which that release fails at, work.

    Args:
        dim: the length of a latent.
        num_quantizers: Q, the number of stages.
        codebook_size: K, one for all stages or a tuple with that of each.
        codebook_dim: the length of a code, if projections go between; `dim` otherwise.
        shared_codebook: all stages have the same codebook, updated once for all of them.
        diveq: learn codes by gradients through noisy directions, see `directional_reparam`.
        quantize_dropout: in training leave out the last stages, from a random one on.
        quantize_dropout_cutoff_index: stages that are always kept.
        quantize_dropout_multiple_of: keep a multiple of so many.
        accept_image_fmap: latents are (B, dim, H, W).
        quant_grad_frac: share of the gradient that a stage's codes pass to the stages before it.
        return_zeros_for_masked_padding: zeros where masked, instead of the input.
        vq_kwargs: arguments of each stage's `VectorQuantize`.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_quantizers: int | None = None,
        codebook_size: int | tuple[int, ...],
        codebook_dim: int | None = None,
        shared_codebook: bool = False,
        diveq: bool = False,
        heads: int = 1,
        quantize_dropout: bool = False,
        quantize_dropout_cutoff_index: int = 0,
        quantize_dropout_multiple_of: int = 1,
        accept_image_fmap: bool = False,
        implicit_neural_codebook: bool = False,
        mlp_kwargs: dict[str, Any] | None = None,
        beam_size: int | None = None,
        eval_beam_size: int | None = None,
        beam_score_quantizer_weights: list[float] | None = None,
        quant_grad_frac: float = 0.0,
        return_zeros_for_masked_padding: bool = True,
        **vq_kwargs: Any,
    ) -> None:
        super().__init__()
        refuse(
            implicit_neural_codebook=implicit_neural_codebook,
            beam_size=beam_size,
            eval_beam_size=eval_beam_size,
        )
        require(heads == 1, f"heads must be 1 in a ResidualVQ, got {heads}")
        require(
            vq_kwargs.get("channel_last", True), "ResidualVQ wants latents (B, N, dim) or images"
        )
        sizes = codebook_size
        if not isinstance(sizes, tuple):
            require(num_quantizers is not None, "num_quantizers or a tuple of codebook sizes")
            check_sizes(num_quantizers=num_quantizers)
            sizes = (sizes,) * num_quantizers
        require(
            num_quantizers is None or len(sizes) == num_quantizers,
            f"codebook_size must be a number or have {num_quantizers}, got {len(sizes)} of them",
        )
        require(
            not shared_codebook or len(set(sizes)) == 1,
            f"shared_codebook wants one codebook_size, got {sizes}",
        )
        require(len(sizes) > 0, "codebook_size must have one for each stage, got ()")
        drops = quantize_dropout and len(sizes) > 1
        most = len(sizes) - 1 if drops else math.inf
        check_integer(
            "quantize_dropout_cutoff_index", quantize_dropout_cutoff_index, minimum=0, maximum=most
        )
        if drops:
            check_sizes(quantize_dropout_multiple_of=quantize_dropout_multiple_of)
        codebook_dim = dim if codebook_dim is None else codebook_dim
        check_sizes(dim=dim, codebook_dim=codebook_dim)
        self.codebook_dim = codebook_dim
        self.has_projections = codebook_dim != dim
        require(
            not (self.has_projections and accept_image_fmap),
            "codebook_dim must be dim with accept_image_fmap",
        )
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            self.project_in = nn.Linear(dim, codebook_dim)
            self.project_out = nn.Linear(codebook_dim, dim)

        vq_kwargs["return_zeros_for_masked_padding"] = return_zeros_for_masked_padding
        if shared_codebook:
            vq_kwargs |= {"manual_ema_update": True, "manual_in_place_optimizer_update": True}
        if diveq:
            vq_kwargs |= {
                "ema_update": False,
                "learnable_codebook": True,
                "route_gradients_to_input": False,
                "commitment_weight": 0.0,
            }
        self.layers = nn.ModuleList(
            VectorQuantize(
                dim=codebook_dim,
                codebook_size=size,
                codebook_dim=codebook_dim,
                accept_image_fmap=accept_image_fmap,
                **vq_kwargs,
            )
            for size in sizes
        )
        self.num_quantizers = len(sizes)
        self.codebook_sizes = sizes
        self.uniform_codebook_size = len(set(sizes)) == 1
        self.accept_image_fmap = accept_image_fmap
        self.return_zeros_for_masked_padding = return_zeros_for_masked_padding
        self.diveq = diveq
        self.quant_grad_frac = 1.0 if diveq else quant_grad_frac
        self.quantize_dropout = drops
        self.quantize_dropout_cutoff_index = quantize_dropout_cutoff_index
        self.quantize_dropout_multiple_of = quantize_dropout_multiple_of
        self.shared_codebook = shared_codebook
        if shared_codebook:
            for layer in self.layers:
                layer._codebook = self.layers[0]._codebook

    @property
    def codebook_size(self) -> int:
        return self.layers[0].codebook_size

    @property
    def codebooks(self) -> Tensor | tuple[Tensor, ...]:
        """The codes (Q, K, D), or a tuple of (K, D) where stages have different K."""
        codebooks = tuple(layer._codebook.embed[0] for layer in self.layers)
        return torch.stack(codebooks) if self.uniform_codebook_size else codebooks

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """The codes of each stage, (Q, B, ..., D), for indices (B, ..., q).

        Zeros for index -1, and for stages beyond q, which must be Q or, with quantize_dropout, at
        most Q. An index outside [-1, K) is a ValueError, on the CPU.
        """
        check_tensor("indices", indices)
        missing = self.num_quantizers - indices.shape[-1]
        require(
            missing == 0 or (missing > 0 and self.quantize_dropout),
            f"indices must have {self.num_quantizers} in their last dimension (or fewer, with "
            f"quantize_dropout), got {tuple(indices.shape)}",
        )
        indices = F.pad(indices, (0, missing), value=-1)
        for layer, index in zip(self.layers, indices.unbind(-1), strict=True):
            check_indices("indices", index, layer._codebook.embed.shape[1], least=-1)
        codes = [
            layer._codebook.embed[0][index.clamp(min=0)]
            for layer, index in zip(self.layers, indices.unbind(-1), strict=True)
        ]
        dropped = (indices == -1).movedim(-1, 0).unsqueeze(-1)
        return torch.stack(codes).masked_fill(dropped, 0.0)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What `forward` makes of latents with these indices (B, ..., q), in evaluation.

        (B, ..., dim), for images too.
        """
        return self.project_out(self.get_codes_from_indices(indices).sum(0))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        indices: None = None,
        return_all_codes: bool = False,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool = False,
        beam_size: None = None,
        rand_quantize_dropout_fixed_seed: Tensor | int | None = None,
    ) -> tuple[Tensor, ...]:
        """Quantises latents.

        Args:
            x: (B, N, dim), or (B, dim, H, W) with accept_image_fmap.
            mask: (B, N) bool, False for padding; (B, H W) for images.
            indices, beam_size: not covered (that release fails when it is given indices).
            return_all_codes: a fourth result, the codes of each stage (Q, B, ..., D).
            sample_codebook_temp: nothing, because codes are not sampled.
            freeze_codebook: no update in training.
            rand_quantize_dropout_fixed_seed: decides which stages are left out; a number.

        Returns:
            quantised latents in the shape of x; indices (B, ..., Q) int64, -1 for stages that are
            left out and where masked; losses (Q,), 0 for stages that are left out.

        Raises:
            NotImplementedError: an argument that is not covered is used.
            ValueError: x has another shape, or arguments do not fit each other.
        """
        refuse(beam_size=beam_size, indices=indices)
        check_tensor("x", x)
        last = self.num_quantizers - 1
        if self.training and self.quantize_dropout:
            last = self._last_stage(rand_quantize_dropout_fixed_seed, x.device)

        if self.has_projections:
            check_latents(x, self.project_in.in_features, channel_first=False)
        latents = residual = self.project_in(x)
        quantized_out = torch.zeros_like(residual)
        residuals, chosen, losses = [], [], []
        for layer in self.layers[: last + 1]:
            if self.shared_codebook:
                residuals.append(residual)
            quantized, index, loss = layer(residual, mask=mask, freeze_codebook=freeze_codebook)
            chosen.append(index)
            losses.append(loss)
            residual = residual - _with_part_of_gradient(quantized, self.quant_grad_frac)
            quantized_out = quantized_out + quantized

        if self.training and self.shared_codebook:
            self._update_shared_codebook(residuals)
        if self.diveq:
            quantized_out = directional_reparam(latents, quantized_out, 5e-3)
        quantized_out = self.project_out(quantized_out)
        if mask is not None:
            kept = self.layers[0].layout.from_rows(mask.unsqueeze(-1), x)
            padding = 0 if self.return_zeros_for_masked_padding else x
            quantized_out = torch.where(kept, quantized_out, padding)

        left_out = (0, self.num_quantizers - len(chosen))
        all_indices = F.pad(torch.stack(chosen, dim=-1), left_out, value=-1)
        result = (quantized_out, all_indices, F.pad(torch.stack(losses), left_out))
        if return_all_codes:
            return *result, self.get_codes_from_indices(all_indices)
        return result

    # Python's random numbers are none that a compiler can trace.
    @torch.compiler.disable(reason="quantize_dropout chooses its stages outside of graphs")
    def _last_stage(self, seed: Tensor | int | None, device: torch.device) -> int:
        """The last stage that is kept, the same on all ranks."""
        seed = draw_seed_of_all_ranks(device) if seed is None else seed
        seed = int(seed) if isinstance(seed, Tensor) else seed
        last = random.Random(seed).randrange(
            self.quantize_dropout_cutoff_index, self.num_quantizers
        )
        multiple = self.quantize_dropout_multiple_of
        return min(math.ceil((last + 1) / multiple) * multiple, self.num_quantizers) - 1

    def _update_shared_codebook(self, residuals: list[Tensor]) -> None:
        first = self.layers[0]
        if first.ema_update:
            first._codebook.update_ema()
            first.update_in_place_optimizer()
        # That release takes the batch for heads here, of which there is one: dead codes are
        # replaced by latents of the first item alone.
        rows = [first.layout.to_rows(residual)[:1] for residual in residuals]
        first.expire_codes_(torch.stack(rows, dim=2).flatten(1, 2))


def draw_seed_of_all_ranks(device: torch.device) -> Tensor:
    """A random number from each rank's generator, summed, so that it is the same on all: int64."""
    seed = torch.randint(0, 10_000, (), device=device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(seed)
    return seed


def _with_part_of_gradient(codes: Tensor, part: float) -> Tensor:
    """The codes, with so much of their gradient."""
    if part <= 0:
        return codes.detach()
    return part * codes + (1 - part) * codes.detach()
