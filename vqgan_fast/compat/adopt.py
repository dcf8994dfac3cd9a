"""Turning a peer's module into ours without copying anything."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def adopt(cls: type[Module], peer: nn.Module, needs: tuple[str, ...] = ()) -> Module:
    """A `cls` with the parameters, buffers, children, hooks and attributes of `peer`.

    Their dictionaries are shared, not copied: what is loaded into or moved by one module is so in
    the other. For classes of ours whose attributes bear the peer's names.

    Args:
        needs: attributes that the peer must have, beside those that its class always had.

    Raises:
        NotImplementedError: it lacks one; it is of a version that is not known here. Or its
            `embedding` has hooks: ours does not call it.
    """
    for name in needs:
        if not hasattr(peer, name):
            raise NotImplementedError(f"it has no attribute {name}: a version that is not known")
    refuse_hooks(peer, "embedding")
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
