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

from ..adopt import refuse_hooks, refuse_replaced_methods
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
_GROUPED = ("dim", "groups", "accept_image_fmap")
_SIM = (
    "codebook_size",
    "rotation_trick",
    "channel_first",
    "commitment_weight",
    "input_to_quantize_commit_loss_weight",
)


def swap_vector_quantize(peer: nn.Module) -> VectorQuantize:
    """Raises NotImplementedError for options that are not covered."""
    return _quantize(peer, {})


def swap_residual_vq(peer: nn.Module) -> ResidualVQ:
    """Raises NotImplementedError for options that are not covered, of any stage."""
    refuse_replaced_methods(peer)
    refuse(**_attributes(peer, ("implicit_neural_codebook", "beam_size")))
    codebooks: dict[int, Codebook] = {}  # stages may share theirs
    layers = _attribute(peer, "layers")
    own = nn.ModuleList(_quantize(layer, codebooks) for layer in layers)
    codebook_dim = _attribute(peer, "codebook_dim")
    ours = _on_no_memory(
        ResidualVQ,
        dim=getattr(_attribute(peer, "project_in"), "in_features", codebook_dim),
        codebook_size=tuple(_attribute(peer, "codebook_sizes")),
        codebook_dim=codebook_dim,
        **_attributes(peer, _RESIDUAL),
    )
    ours.quant_grad_frac = _attribute(peer, "quant_grad_frac")
    ours.layers = own
    ours.layers.training = layers.training
    return _share_projections(ours, peer)


def swap_grouped_residual_vq(peer: nn.Module) -> GroupedResidualVQ:
    """Raises NotImplementedError for options that are not covered, of any group."""
    refuse_replaced_methods(peer)
    rvqs = _attribute(peer, "rvqs")
    own = nn.ModuleList(swap_residual_vq(rvq) for rvq in rvqs)
    ours = _on_no_memory(
        GroupedResidualVQ, num_quantizers=1, codebook_size=1, **_attributes(peer, _GROUPED)
    )
    ours.rvqs = own
    ours.rvqs.training = rvqs.training
    ours.training = peer.training
    return ours


def swap_sim_vq(peer: nn.Module) -> SimVQ:
    """Raises NotImplementedError for a release that is not known."""
    refuse_replaced_methods(peer)
    ours = _on_no_memory(
        SimVQ,
        dim=1,
        codebook_transform=_attribute(peer, "code_transform"),
        **_attributes(peer, _SIM),
    )
    ours.frozen_codebook = _attribute(peer, "frozen_codebook")
    ours.training = peer.training
    return ours


def _quantize(peer: nn.Module, codebooks: dict[int, Codebook]) -> VectorQuantize:
    for cls in type(peer).__mro__[1:]:
        if f"{cls.__module__}.{cls.__qualname__}" in SWAPS:
            raise NotImplementedError(f"a stage is a subclass, {type(peer).__qualname__}")
    theirs = _attribute(peer, "_codebook")
    refuse_hooks(peer, "_codebook")
    _refuse_other_codebooks(peer, theirs)
    refuse_replaced_methods(peer)
    synchronized, reduce = (_attribute(theirs, x) for x in ("use_ddp", "kmeans_all_reduce_fn"))
    ours = _on_no_memory(
        VectorQuantize,
        codebook_dim=_attribute(theirs, "embed").shape[-1],
        sync_codebook=synchronized,
        sync_kmeans=not synchronized or reduce is dist.all_reduce,
        **_sampling(_attribute(theirs, "gumbel_sample")),
        **_attributes(peer, _QUANTIZE),
        **_attributes(theirs, _CODEBOOK),
    )
    # Codebooks are swapped once, so that stages which share theirs still do.
    ours._codebook = codebooks.setdefault(id(theirs), ours._codebook)
    for name in ("initted", "cluster_size", "embed_avg", "embed", "reset_cluster_size"):
        setattr(ours._codebook, name, _attribute(theirs, name))
    ours._codebook.training = theirs.training
    ours._codebook.read_initted()
    ours.in_place_codebook_optimizer = _attribute(peer, "in_place_codebook_optimizer")
    return _share_projections(ours, peer)


def _refuse_other_codebooks(peer: nn.Module, codebook: nn.Module) -> None:
    """NotImplementedError unless the codebook does what its class in the peer's own file does."""
    cls = type(codebook)
    if cls is Codebook:  # patched before
        return
    if cls.__module__ != type(peer).__module__ or cls.__bases__ != (nn.Module,):
        raise NotImplementedError(
            f"its _codebook is a {cls.__qualname__}, whose methods may differ"
        )
    refuse_replaced_methods(codebook)
    # The class keeps one of its own functions there.
    transform = vars(codebook).get("transform_input")
    if transform is not None and transform.__module__ != cls.__module__:
        raise NotImplementedError("its _codebook's transform_input was replaced on the instance")


def _sampling(sample: Any) -> dict[str, Any]:
    """The options that the package has put into its sampling function."""
    names = ("stochastic", "straight_through")
    if not isinstance(sample, partial) or not sample.keywords.keys() >= set(names):
        raise NotImplementedError(f"gumbel_sample={sample!r} is not covered by vqgan_fast")
    stochastic, straight_through = (sample.keywords[name] for name in names)
    return {"stochastic_sample_codes": stochastic, "straight_through": straight_through}


def _attribute(peer: nn.Module, name: str) -> Any:
    """An attribute of one of the package's modules.

    Every one is read by this: releases differ in which there are.

    Raises:
        NotImplementedError: it has none of that name.
    """
    if not hasattr(peer, name):
        raise NotImplementedError(f"it has no attribute {name}: a release that is not known")
    return getattr(peer, name)


def _attributes(peer: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _attribute(peer, name) for name in names}


def _on_no_memory(make: Callable[..., nn.Module], **options: Any) -> Any:
    """A module whose tensors are yet to come, made without a draw from torch's random numbers."""
    with torch.device("meta"):
        return make(**options)


def _share_projections(ours: Any, peer: nn.Module) -> Any:
    for name in ("project_in", "project_out"):
        setattr(ours, name, _attribute(peer, name))
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
