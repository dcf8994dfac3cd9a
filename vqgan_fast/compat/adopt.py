"""Turning a peer's module into ours without copying anything."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

Module = TypeVar("Module", bound=nn.Module)


def adopt(
    cls: type[Module],
    peer: nn.Module,
    needs: tuple[str, ...] = (),
    has_own_embedding: bool = False,
) -> Module:
    """A `cls` with the parameters, buffers, children, hooks and attributes of `peer`.

    Their dictionaries are shared, not copied: what is loaded into or moved by one module is so in
    the other. For classes of ours whose attributes bear the peer's names.

    Args:
        needs: attributes that the peer must have, beside those that its class always had.
        has_own_embedding: the peer's `embedding` is of a class of its own instead of nn.Embedding.

    Raises:
        NotImplementedError: it lacks one; it is of a version that is not known here. Or its
            `embedding`, whose weight is all that ours reads, has hooks or is another than
            nn.Embedding.
    """
    for name in needs:
        if not hasattr(peer, name):
            raise NotImplementedError(f"it has no attribute {name}: a version that is not known")
    refuse_hooks(peer, "embedding")
    if hasattr(peer, "embedding") and not has_own_embedding:
        _refuse_other_embeddings(peer.embedding)
    module = cls.__new__(cls)
    module.__dict__.update(peer.__dict__)
    return module


def refuse_hooks(peer: nn.Module, name: str) -> None:
    """Makes sure that a part of a peer's module, which ours does not call as it does, has no hooks.

    Raises:
        NotImplementedError: it has.
    """
    part = getattr(peer, name, None)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(part, kind, None) for kind in hooks):
        raise NotImplementedError(f"it has hooks on its {name}, which ours calls otherwise")


def refuse_replaced_methods(peer: nn.Module) -> None:
    """Makes sure that a module has the methods of its class, for which ours has its own.

    Raises:
        NotImplementedError: one was replaced on the instance.
    """
    for name in vars(peer):
        if callable(getattr(type(peer), name, None)):
            raise NotImplementedError(f"its {name} was replaced on the instance")


def _refuse_other_embeddings(embedding: nn.Module) -> None:
    cls = type(embedding)
    if is_parametrized(embedding):  # a class made for it, whose weight is the computed one
        cls = cls.__bases__[0]
    if cls is not nn.Embedding:
        raise NotImplementedError(
            f"its embedding is a {cls.__qualname__}, which may look up more than its weight"
        )
    options = {"max_norm": None, "padding_idx": None, "scale_grad_by_freq": False, "sparse": False}
    for name, default in options.items():
        if getattr(embedding, name) != default:
            raise NotImplementedError(
                f"its embedding has {name} = {getattr(embedding, name)}, which ours ignores"
            )
