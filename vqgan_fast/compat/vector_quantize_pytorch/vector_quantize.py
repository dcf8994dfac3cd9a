"""VectorQuantize of vector-quantize-pytorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ...quantizers.checks import check_indices
from . import losses
from .codebook import Codebook
from .layout import check_mask
from .options import check_combination, check_sizes, refuse
from .trained_codebook import TrainedCodebook


class VectorQuantize(TrainedCodebook):
    """Replaces each latent by its nearest code, and moves the codes along with the latents.

    A drop-in for `vector_quantize_pytorch.VectorQuantize` (read from release 1.32): the same
    arguments, results, state-dict keys, gradients and use of torch's random numbers. The search is
    exact and no N x K matrix is held. What differs:

    - Options in `options.py` raise NotImplementedError: sampled codes, affine parameters, the
      cross-entropy and diversity losses, and, for a call, `topk` and `codebook_transform_fn`.
    - Where that package rounds fp64 to fp32, fp64 is kept; where CPU autocast lets it search in
      bf16, the search stays exact.
    - `ValueError` in place of assertions.

    Latents are (B, N, dim), or (B, dim) for one position each; (B, dim, N) without `channel_last`;
    (B, dim, H, W) with `accept_image_fmap`; (B, dim, T, H, W) with `accept_3d_fmap`. With `heads`,
    each of them is as many vectors of `codebook_dim`, quantised by the same codebook or each by its
    own.

    Args (others as `Codebook` has them):
        dim, codebook_size: sizes of the latents and the codebook.
        codebook_dim: the length of a code, if projections go between; `dim` otherwise.
        heads, separate_codebook_per_head: see above.
        freeze_codebook: no update in training, unless a call says otherwise.
        layernorm_after_project_in: normalise what is projected.
        commitment_weight: of the mean squared error between latents and codes.
        orthogonal_reg_weight, orthogonal_reg_active_codes_only, orthogonal_reg_max_codes: of the
            codes' orthogonality, of those chosen alone, of a random choice of so many.
        rotation_trick, directional_reparam: gradients other than straight through; the first is the
            default for dim > 1.
        sync_codebook: sum the statistics over ranks; by default if there are several.
        learnable_codebook: codes get gradients; wants ema_update=False.
        in_place_codebook_optimizer: makes an optimiser of the codes, that takes its own step in
            each call; manual_in_place_optimizer_update: only by `update_in_place_optimizer`.
        sync_update_v: share of the gradient that reaches the code as well (Huh et al., 2023,
            eq. 21).
        return_zeros_for_masked_padding: zeros where masked, instead of the input.
        route_gradients_to_input: False cuts the gradient of the result from the latents.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        heads: int = 1,
        separate_codebook_per_head: bool = False,
        decay: float = 0.8,
        eps: float = 1e-5,
        freeze_codebook: bool = False,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        sync_kmeans: bool = True,
        use_cosine_sim: bool = False,
        layernorm_after_project_in: bool = False,
        threshold_ema_dead_code: float = 0,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        accept_3d_fmap: bool = False,
        commitment_weight: float = 1.0,
        commitment_use_cross_entropy_loss: bool = False,
        orthogonal_reg_weight: float = 0.0,
        orthogonal_reg_active_codes_only: bool = False,
        orthogonal_reg_max_codes: int | None = None,
        codebook_diversity_loss_weight: float = 0.0,
        codebook_diversity_temperature: float = 100.0,
        stochastic_sample_codes: bool = False,
        sample_codebook_temp: float = 1.0,
        straight_through: bool = False,
        rotation_trick: bool | None = None,
        directional_reparam: bool = False,
        directional_reparam_variance: float = 5e-3,
        sync_codebook: bool | None = None,
        sync_affine_param: bool = False,
        ema_update: bool | None = None,
        vq_bridge: nn.Module | None = None,
        manual_ema_update: bool = False,
        learnable_codebook: bool | None = None,
        in_place_codebook_optimizer: Callable[..., Optimizer] | None = None,
        manual_in_place_optimizer_update: bool = False,
        affine_param: bool = False,
        affine_param_batch_decay: float = 0.99,
        affine_param_codebook_decay: float = 0.9,
        sync_update_v: float = 0.0,
        return_zeros_for_masked_padding: bool = True,
        route_gradients_to_input: bool = True,
    ) -> None:
        super().__init__()
        refuse(
            commitment_use_cross_entropy_loss=commitment_use_cross_entropy_loss,
            codebook_diversity_loss_weight=codebook_diversity_loss_weight,
            stochastic_sample_codes=stochastic_sample_codes,
            straight_through=straight_through,
            affine_param=affine_param,
            sync_affine_param=sync_affine_param,
        )
        has_bridge = vq_bridge is not None
        if ema_update is None:
            ema_update = not directional_reparam and not has_bridge
        if learnable_codebook is None:
            learnable_codebook = directional_reparam or has_bridge
        if rotation_trick is None:
            rotation_trick = not directional_reparam and dim > 1
        if sync_codebook is None:
            sync_codebook = dist.is_initialized() and dist.get_world_size() > 1
        check_combination(
            ema_update=ema_update,
            learnable_codebook=learnable_codebook,
            use_cosine_sim=use_cosine_sim,
            rotation_trick=rotation_trick,
            directional_reparam=directional_reparam,
            threshold_ema_dead_code=threshold_ema_dead_code,
            vq_bridge=vq_bridge,
            sync_update_v=sync_update_v,
            separate_heads=heads > 1 and separate_codebook_per_head,
            orthogonal_of_active_codes=orthogonal_reg_active_codes_only
            and orthogonal_reg_weight > 0,
        )

        codebook_dim = dim if codebook_dim is None else codebook_dim
        check_sizes(dim=dim, codebook_size=codebook_size, heads=heads, codebook_dim=codebook_dim)
        if orthogonal_reg_weight > 0 and orthogonal_reg_max_codes is not None:
            check_sizes(orthogonal_reg_max_codes=orthogonal_reg_max_codes)

        self.dim = dim
        self.codebook_size = codebook_size
        self.heads = heads
        self.separate_codebook_per_head = separate_codebook_per_head
        projected = codebook_dim * heads
        self.has_projections = projected != dim
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            self.project_in = nn.Linear(dim, projected)
            if layernorm_after_project_in:
                self.project_in = nn.Sequential(self.project_in, nn.LayerNorm(projected))
            self.project_out = nn.Linear(projected, dim)
        self.accept_image_fmap = accept_image_fmap
        self.accept_3d_fmap = accept_3d_fmap
        self.channel_last = channel_last

        self.commitment_weight = commitment_weight
        self.has_commitment_loss = commitment_weight > 0 and not directional_reparam
        self.orthogonal_reg_weight = orthogonal_reg_weight
        self.orthogonal_reg_active_codes_only = orthogonal_reg_active_codes_only
        self.orthogonal_reg_max_codes = orthogonal_reg_max_codes
        self.learnable_codebook = learnable_codebook
        self.rotation_trick = rotation_trick
        self.directional_reparam = directional_reparam
        self.directional_reparam_variance = directional_reparam_variance
        self.route_gradients_to_input = route_gradients_to_input
        self.sync_update_v = sync_update_v
        self.return_zeros_for_masked_padding = return_zeros_for_masked_padding
        self.freeze_codebook = freeze_codebook
        self.use_cosine_sim = use_cosine_sim

        self._codebook = Codebook(
            dim=codebook_dim,
            codebook_size=codebook_size,
            num_codebooks=heads if separate_codebook_per_head else 1,
            kmeans_init=kmeans_init,
            kmeans_iters=kmeans_iters,
            sync_kmeans=sync_kmeans,
            decay=decay,
            eps=eps,
            threshold_ema_dead_code=threshold_ema_dead_code,
            synchronize=sync_codebook,
            learnable_codebook=learnable_codebook or orthogonal_reg_weight > 0,
            ema_update=ema_update,
            manual_ema_update=manual_ema_update,
            use_cosine_sim=use_cosine_sim,
            vq_bridge=vq_bridge,
        )
        self.in_place_codebook_optimizer = None
        if in_place_codebook_optimizer is not None:
            self.in_place_codebook_optimizer = in_place_codebook_optimizer(
                self._codebook.parameters()
            )
        self.manual_in_place_optimizer_update = manual_in_place_optimizer_update

    def forward(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        topk: int | None = None,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool | None = None,
        return_loss_breakdown: bool = False,
        codebook_transform_fn: Callable | None = None,
        ema_update_weight: Tensor | float | Callable[[Tensor, Tensor], Any] | None = None,
        accum_ema_update: bool = False,
        ema_update: bool | None = None,
    ) -> tuple[Any, ...]:
        """Quantises latents.

        Args:
            x: latents, as the class says.
            indices: return (codes, cross-entropy of these indices) instead.
            mask: (B, N) bool, False for padding; or lens: (B,) how many of each are not.
            sample_codebook_temp: nothing, because codes are not sampled.
            freeze_codebook: instead of the module's.
            return_loss_breakdown: a fourth result, `LossBreakdown`.
            ema_update_weight, accum_ema_update, ema_update: as `Codebook.update_codebook` has them.

        Returns:
            quantised latents in the shape of x; indices int64, with a last dimension for several
            heads, -1 where masked; the weighted loss, a scalar, 0 in evaluation.

        Raises:
            NotImplementedError: an argument that is not covered is used.
            ValueError: x has another shape, or arguments do not fit each other.
        """
        refuse(topk=topk, codebook_transform_fn=codebook_transform_fn)
        layout, codebook = self.layout, self._codebook
        rows = layout.to_rows(x)
        mask = check_mask(rows, mask, lens)
        freeze = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        latents = codebook.transform_input(layout.split_heads(self.project_in(rows)))
        head_mask = None if mask is None else layout.split_mask(mask)

        quantized, chosen = codebook(latents, head_mask)
        quantized = quantized.to(x.dtype)
        cross_entropy = None
        if indices is not None:  # before the codes move
            check_indices("indices", indices, self.codebook_size, least=-1)
            targets = layout.split_index_heads(layout.indices_to_rows(indices, rows))
            codes = codebook.codes().clone()
            cross_entropy = losses.cross_entropy_of_codes(
                latents, codes, targets, self.use_cosine_sim
            )
        if self.training and not freeze:
            codebook.update_codebook(
                latents, chosen, head_mask, ema_update_weight, accum_ema_update, ema_update
            )
        inplace_loss = None
        if self.in_place_codebook_optimizer is not None and self.training and not freeze:
            inplace_loss = losses.mean_squared_error(quantized, latents.detach(), head_mask)
            inplace_loss.backward()
            if not self.manual_in_place_optimizer_update:
                self.update_in_place_optimizer()
            quantized, chosen = codebook(latents, head_mask)
            quantized = quantized.to(x.dtype)

        codes_for_loss = quantized
        if self.training:
            if not self.learnable_codebook or freeze:
                codes_for_loss = quantized.detach()
            if x.requires_grad and self.route_gradients_to_input:
                quantized = self._with_gradient(latents, quantized)
            if self.sync_update_v > 0:
                quantized = quantized + self.sync_update_v * (quantized - quantized.detach())
        if cross_entropy is not None:
            # As there: neither joined nor projected, heads that share a codebook in the batch.
            quantized = quantized[0] if self.heads == 1 else quantized.flatten(1, -3)
            return quantized, cross_entropy

        loss, breakdown = self._loss(rows, latents, codes_for_loss, chosen, mask, inplace_loss)
        out = self.project_out(layout.join_heads(quantized))
        chosen = layout.join_index_heads(chosen)
        if mask is not None:
            padding = 0 if self.return_zeros_for_masked_padding else rows
            out = torch.where(mask.unsqueeze(-1), out, padding)
            chosen = torch.where(mask if self.heads == 1 else mask.unsqueeze(-1), chosen, -1)
        result = (layout.from_rows(out, x), layout.indices_from_rows(chosen, x), loss)
        return (*result, breakdown) if return_loss_breakdown else result
