"""Replacements for modules of vector-quantize-pytorch that exist already.

Each takes one of the package's modules and returns ours with the same options, which shares its
parameters, buffers and projections. The module itself is not changed. Options are read from the
module's attributes, so the package need not be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..adopt import refuse_hooks
from .codebook import Codebook
from .grouped_residual_vq import GroupedResidualVQ
from .options import refuse
from .residual_vq import ResidualVQ
from .sim_vq import SimVQ
from .vector_quantize import VectorQuantize

# Attributes that have the same name and meaning in both.
_QUANTIZE = (
    "dim",
    "codebook_size",
    "heads",
    "separate_codebook_per_head",
    "freeze_codebook",
    "use_cosine_sim",
    "channel_last",
    "accept_image_fmap",
    "accept_3d_fmap",
    "commitment_weight",
    "commitment_use_cross_entropy_loss",
    "codebook_diversity_loss_weight",
    "orthogonal_reg_weight",
    "orthogonal_reg_active_codes_only",
    "orthogonal_reg_max_codes",
    "rotation_trick",
    "directional_reparam",
    "directional_reparam_variance",
    "learnable_codebook",
    "manual_in_place_optimizer_update",
    "sync_update_v",
    "return_zeros_for_masked_padding",
    "route_gradients_to_input",
)
_CODEBOOK = (
    "kmeans_iters",
    "decay",
    "eps",
    "threshold_ema_dead_code",
    "ema_update",
    "manual_ema_update",
    "affine_param",
    "sync_affine_param",
    "vq_bridge",
)
_RESIDUAL = (
    "shared_codebook",
    "diveq",
    "quantize_dropout",
    "quantize_dropout_cutoff_index",
    "quantize_dropout_multiple_of",
    "accept_image_fmap",
    "implicit_neural_codebook",
    "beam_size",
    "eval_beam_size",
    "return_zeros_for_masked_padding",
)
_SIM = ("codebook_size", "rotation_trick", "channel_first", "commitment_weight")


def swap_vector_quantize(peer: nn.Module) -> VectorQuantize:
    """Raises NotImplementedError for options that are not covered."""
    return _quantize(peer, {})


def swap_residual_vq(peer: nn.Module) -> ResidualVQ:
    """Raises NotImplementedError for options that are not covered, of any stage."""
    refuse(implicit_neural_codebook=peer.implicit_neural_codebook, beam_size=peer.beam_size)
    codebooks: dict[int, Codebook] = {}  # stages may share theirs
    layers = [_quantize(layer, codebooks) for layer in peer.layers]
    ours = _on_no_memory(
        ResidualVQ,
        dim=getattr(peer.project_in, "in_features", peer.codebook_dim),
        codebook_size=tuple(peer.codebook_sizes),
        codebook_dim=peer.codebook_dim,
        **_attributes(peer, _RESIDUAL),
    )
    ours.quant_grad_frac = peer.quant_grad_frac
    ours.layers = nn.ModuleList(layers)
    ours.layers.training = peer.layers.training
    return _share_projections(ours, peer)


def swap_grouped_residual_vq(peer: nn.Module) -> GroupedResidualVQ:
    """Raises NotImplementedError for options that are not covered, of any group."""
    rvqs = [swap_residual_vq(rvq) for rvq in peer.rvqs]
    ours = _on_no_memory(
        GroupedResidualVQ,
        groups=peer.groups,
        num_quantizers=1,
        codebook_size=1,
        **_attributes(peer, ("dim", "accept_image_fmap")),
    )
    ours.rvqs = nn.ModuleList(rvqs)
    ours.rvqs.training = peer.rvqs.training
    ours.training = peer.training
    return ours


def swap_sim_vq(peer: nn.Module) -> SimVQ:
    weight = peer.input_to_quantize_commit_loss_weight
    ours = _on_no_memory(
        SimVQ,
        dim=1,
        codebook_transform=peer.code_transform,
        input_to_quantize_commit_loss_weight=weight,
        **_attributes(peer, _SIM),
    )
    ours.frozen_codebook = peer.frozen_codebook
    ours.training = peer.training
    return ours


def _quantize(peer: nn.Module, codebooks: dict[int, Codebook]) -> VectorQuantize:
    for cls in type(peer).__mro__[1:]:
        if f"{cls.__module__}.{cls.__qualname__}" in SWAPS:
            raise NotImplementedError(f"a stage is a subclass, {type(peer).__qualname__}")
    theirs = peer._codebook
    refuse_hooks(peer, "_codebook")
    synchronized = theirs.use_ddp
    ours = _on_no_memory(
        VectorQuantize,
        codebook_dim=theirs.embed.shape[-1],
        sync_codebook=synchronized,
        sync_kmeans=not synchronized or theirs.kmeans_all_reduce_fn is dist.all_reduce,
        **_sampling(theirs.gumbel_sample),
        **_attributes(peer, _QUANTIZE),
        **_attributes(theirs, _CODEBOOK),
    )
    # Codebooks are swapped once, so that stages which share theirs still do.
    ours._codebook = codebooks.setdefault(id(theirs), ours._codebook)
    for name in ("initted", "cluster_size", "embed_avg", "embed"):
        setattr(ours._codebook, name, getattr(theirs, name))
    ours._codebook.reset_cluster_size = theirs.reset_cluster_size
    ours._codebook.training = theirs.training
    ours._codebook.read_initted()
    ours.in_place_codebook_optimizer = peer.in_place_codebook_optimizer
    return _share_projections(ours, peer)


def _sampling(sample: Any) -> dict[str, Any]:
    """The options that the package has put into its sampling function."""
    if not isinstance(sample, partial):
        raise NotImplementedError(f"gumbel_sample={sample!r} is not covered by vqgan_fast")
    return {
        "stochastic_sample_codes": sample.keywords["stochastic"],
        "straight_through": sample.keywords["straight_through"],
    }


def _attributes(peer: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    for name in names:
        if not hasattr(peer, name):
            raise NotImplementedError(f"it has no attribute {name}: a release that is not known")
    return {name: getattr(peer, name) for name in names}


def _on_no_memory(make: Callable[..., nn.Module], **options: Any) -> Any:
    """A module whose tensors are yet to come, made without a draw from torch's random numbers."""
    with torch.device("meta"):
        return make(**options)


def _share_projections(ours: Any, peer: nn.Module) -> Any:
    ours.project_in, ours.project_out = peer.project_in, peer.project_out
    # Constants of the package that ours does without; a module keeps its buffers all the same.
    for name, buffer in peer._buffers.items():
        ours.register_buffer(name, buffer, persistent=name not in peer._non_persistent_buffers_set)
    ours.training = peer.training
    return ours


_MODULES = "vector_quantize_pytorch"
SWAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    f"{_MODULES}.vector_quantize_pytorch.VectorQuantize": swap_vector_quantize,
    f"{_MODULES}.residual_vq.ResidualVQ": swap_residual_vq,
    f"{_MODULES}.residual_vq.GroupedResidualVQ": swap_grouped_residual_vq,
    f"{_MODULES}.sim_vq.SimVQ": swap_sim_vq,
}
"""Replacements by the class they replace; each may raise NotImplementedError with a reason."""
