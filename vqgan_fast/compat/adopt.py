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
        NotImplementedError: it lacks one; it is of a version that is not known here.
    """
    for name in needs:
        if not hasattr(peer, name):
            raise NotImplementedError(f"it has no attribute {name}: a version that is not known")
    module = cls.__new__(cls)
    module.__dict__.update(peer.__dict__)
    return module
