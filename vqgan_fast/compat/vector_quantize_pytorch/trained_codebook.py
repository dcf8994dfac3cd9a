"""What a VectorQuantize does in training, besides moving its codes: gradients and losses."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from . import gradients, losses
from .indexed_codebook import IndexedCodebook


class TrainedCodebook(IndexedCodebook):
    """The codebook of a VectorQuantize in training: what latents and codes learn from."""

    commitment_weight: float
    has_commitment_loss: bool
    orthogonal_reg_weight: float
    orthogonal_reg_active_codes_only: bool
    orthogonal_reg_max_codes: int | None
    rotation_trick: bool
    directional_reparam: bool
    directional_reparam_variance: float
    in_place_codebook_optimizer: Optimizer | None

    def update_in_place_optimizer(self) -> None:
        """A step of the codes' own optimiser, with the gradients of all ranks."""
        if self.in_place_codebook_optimizer is None:
            return
        if self._codebook.synchronize:
            for parameter in self._codebook.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        self.in_place_codebook_optimizer.step()
        self.in_place_codebook_optimizer.zero_grad()

    def _with_gradient(self, latents: Tensor, quantized: Tensor) -> Tensor:
        if self.rotation_trick:
            return gradients.rotate_to(latents, quantized)
        if self.directional_reparam:
            variance = self.directional_reparam_variance
            return gradients.directional_reparam(latents, quantized, variance)
        return gradients.straight_through(latents, quantized)

    def _loss(
        self,
        rows: Tensor,
        latents: Tensor,
        codes: Tensor,
        indices: Tensor,
        mask: Tensor | None,
        inplace_loss: Tensor | None,
    ) -> tuple[Tensor, losses.LossBreakdown]:
        zero = latents.new_zeros((), dtype=torch.float32)
        loss, commitment, orthogonal = zero, zero, zero
        if self.training:
            if self.has_commitment_loss:
                commitment = self._commitment(rows, latents, codes, mask)
                loss = loss + commitment * self.commitment_weight
            if self.orthogonal_reg_weight > 0:
                active = indices if self.orthogonal_reg_active_codes_only else None
                orthogonal = losses.orthogonal_loss(
                    self._codebook.embed, active, self.orthogonal_reg_max_codes
                )
                loss = loss + orthogonal * self.orthogonal_reg_weight
            # So that training code may call backward where nothing in the model learns from it. A
            # graph cannot say that of what it computes.
            if not torch.compiler.is_compiling() and not loss.requires_grad:
                loss = loss.clone().requires_grad_()
        inplace_loss = zero if inplace_loss is None else inplace_loss
        return loss, losses.LossBreakdown(commitment, zero, orthogonal, inplace_loss)

    def _commitment(
        self, rows: Tensor, latents: Tensor, codes: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is None:
            return losses.mean_squared_error(codes, latents, None)
        # With a mask, the package compares with the latents as they came, not as they were
        # projected, split or normalised: with all of them in each head; where lengths differ, it
        # fails.
        if codes.shape[-1] != rows.shape[-1]:
            raise NotImplementedError(
                "mask is not covered in training with codebook_dim != dim, unless "
                "commitment_weight is 0 (vector_quantize_pytorch fails there as well)"
            )
        head_mask = self.layout.split_mask(mask)
        rows = rows.unsqueeze(1) if codes.ndim > rows.ndim + 1 else rows
        return losses.mean_squared_error(codes, rows, head_mask)
