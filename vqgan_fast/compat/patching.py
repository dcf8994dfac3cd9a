"""Swapping the quantisers of a model that exists for ours, and back."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Modules of this package with a table SWAPS: fully qualified class name of a peer -> a function
# that returns the replacement of an instance, or raises NotImplementedError with the reason.
PEERS = ("taming", "diffusers", "llamagen", "transformers", "vector_quantize_pytorch")

# Where a patched module keeps what it was, as `_Original`.
_ORIGINAL = "_vqgan_fast_original"
_HOOKS = (
    "_is_full_backward_hook", "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_TABLES = ("_parameters", "_buffers", "_modules")


class _Original(NamedTuple):
    """What a module was before it was patched."""

    cls: type
    attributes: dict[str, Any]
    is_part: bool
    """Of a quantiser that was swapped as a whole: it has no line of its own in a report."""


@dataclass
class PatchReport:
    """What `patch` did, by the modules' paths; printable."""

    swapped: dict[str, str] = field(default_factory=dict)
    """path -> the peer's class."""
    left: dict[str, tuple[str, str]] = field(default_factory=dict)
    """path -> the peer's class, and why it was left as it is."""

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)} quantiser(s), left {len(self.left)}"]
        if not self.swapped and not self.left:
            lines.append("  a class of your own that copies a known one is named with `also`")
        lines += [f"  swapped  {path or '(model)'}: {peer}" for path, peer in self.swapped.items()]
        for path, (peer, reason) in self.left.items():
            lines.append(f"  left     {path or '(model)'}: {peer}: {reason}")
        return "\n".join(lines)


_not_in_a_graph = torch.compiler.disable(
    reason="patch and unpatch change modules: call them outside of compiled functions"
)


@_not_in_a_graph
def patch(
    model: nn.Module, strict: bool = False, also: Mapping[str, str] | None = None
) -> PatchReport:
    """Makes every quantiser that is known here run on our ops, in place.

    The modules stay the objects they are, those inside of a quantiser too, with their parameters,
    buffers, hooks, training mode and attributes of yours; only what they compute with changes. So a
    model that is wrapped in DistributedDataParallel, whose parameters an optimizer holds, or that
    came out of `torch.load` can be patched as it is. A module must be patched before it is
    compiled; a function that was compiled around it is compiled again. `unpatch` undoes it.

    Args:
        model: any module; it may be a quantiser itself.
        strict: raise, with nothing changed, if a known quantiser would be left or none is found.
        also: classes of your own code that are copies of known ones, by their fully qualified
            names: {"my_model.VectorQuantizer2": "taming.modules.vqvae.quantize.VectorQuantizer2"}.

    Returns:
        What was swapped and what was left, with the reason.

    Raises:
        TypeError: model is no module, or `also` no mapping.
        RuntimeError: a quantiser lies in a compiled module; nothing is changed.
        NotImplementedError: strict, and a known quantiser cannot be swapped.
        ValueError: strict, and there is no quantiser; or `also` names an unknown class.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if also is not None and not isinstance(also, Mapping):
        raise TypeError(f"also must be a dict of class names, got {type(also).__name__}")
    swaps = _swaps(also or {})
    report = PatchReport()
    plan = _plan(model, swaps, report)
    if strict and report.left:
        raise NotImplementedError(f"patch(strict=True) changed nothing: {report.left}")
    if strict and not plan and not any(_ORIGINAL in module.__dict__ for module in model.modules()):
        raise ValueError(
            f"patch(strict=True) found no known quantiser in {_name(type(model))}; known: "
            f"{', '.join(sorted(swaps))}"
        )
    for module, replacement, is_part in plan:
        attributes = replacement.__dict__
        attributes[_ORIGINAL] = _Original(type(module), module.__dict__, is_part)
        module.__class__, module.__dict__ = type(replacement), attributes
    return report


@_not_in_a_graph
def unpatch(model: nn.Module) -> list[str]:
    """Gives every module that `patch` changed its own class back, with the tensors it has now.

    Its hooks and mode are today's as well; other attributes are those it had when it was patched.

    Returns:
        The paths of these modules, without those of their parts.

    Raises:
        TypeError: model is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    restored = []
    for path, module in list(model.named_modules()):
        if _ORIGINAL not in module.__dict__:
            continue
        patched = module.__dict__
        original: _Original = patched[_ORIGINAL]
        original.attributes.update(_of_any_module(patched))
        for table in _TABLES:
            original.attributes[table].update(patched[table])
        module.__class__, module.__dict__ = original.cls, original.attributes
        if not original.is_part:
            restored.append(path)
    return restored


def _swaps(also: Mapping[str, str]) -> dict[str, Callable[[nn.Module], nn.Module]]:
    """The tables of all peers in one; they import none of the peers."""
    swaps: dict[str, Callable[[nn.Module], nn.Module]] = {}
    for peer in PEERS:
        swaps.update(importlib.import_module(f".{peer}", __package__).SWAPS)
    for own, known in also.items():
        if known not in swaps:
            raise ValueError(
                f"also must name known classes ({', '.join(sorted(swaps))}), got {known}"
            )
        swaps[own] = swaps[known]
    return swaps


def _plan(
    model: nn.Module, swaps: Mapping[str, Callable[[nn.Module], nn.Module]], report: PatchReport
) -> list[tuple[nn.Module, nn.Module, bool]]:
    """Modules, their replacements, and whether a quantiser around them is the one that was known.

    Nothing is changed yet; the report is filled.
    """
    plan: dict[int, tuple[nn.Module, nn.Module, bool]] = {}

    def visit(path: str, module: nn.Module, compiled: bool) -> None:
        compiled = compiled or _is_compiled(module)
        known = next((_name(cls) for cls in type(module).__mro__ if _name(cls) in swaps), None)
        if id(module) in plan:  # the same module in a second place
            report.swapped[path] = _name(type(module))
            return
        if known is not None and _ORIGINAL not in module.__dict__:
            if compiled or any(map(_is_compiled, module.modules())):
                raise RuntimeError(
                    f"{path or 'the model'} is a {known} in a compiled module: patch the model "
                    "before torch.compile; nothing was changed"
                )
            try:
                replacement = _replacement(module, known, swaps[known])
                report.swapped[path] = known
                for part, new in _pairs(module, replacement):
                    # A part that is a quantiser in another place as well is swapped once.
                    plan.setdefault(id(part), (part, new, part is not module))
                return
            except NotImplementedError as error:
                # What lies inside belongs to a form that is not covered: it stays as well.
                report.left[path] = (_name(type(module)), str(error))
                return
        for name, child in module._modules.items():
            if child is not None:
                visit(f"{path}.{name}" if path else name, child, compiled)

    visit("", model, False)
    return list(plan.values())


def _replacement(
    module: nn.Module, known: str, swap: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """What takes the place of a module, with all that belongs to it.

    Raises:
        NotImplementedError: it cannot be replaced, and why.
    """
    if _name(type(module)) != known:
        raise NotImplementedError(
            f"a subclass of {known}, whose own methods are not known (FSDP2 and parametrizations "
            "make such classes: patch first)"
        )
    for part in module.modules():
        if "forward" in part.__dict__ or "_hf_hook" in part.__dict__:
            raise NotImplementedError(
                "its forward was replaced on the instance (accelerate's hooks do so: patch first)"
            )
    try:
        replacement = swap(module)
    except ValueError as error:  # options, perhaps changed since, that ours does not take
        raise NotImplementedError(str(error)) from error
    before, after = _tensors(module), _tensors(replacement)
    missing = after.keys() - before.keys()
    if missing or not all(_same(before[name], after[name]) for name in after):
        raise RuntimeError(
            f"the replacement of {known} does not share its tensors: this is a bug of ours"
        )
    return replacement


def _pairs(module: nn.Module, replacement: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The module and those of its parts that are replaced, each with what takes its place.

    The replacement then holds the module's own parts, which are to become its.
    """
    _keep_what_hangs_on(module, replacement)
    pairs = [(module, replacement)]
    for name, new in list(replacement._modules.items()):
        part = module._modules.get(name)
        if new is None or new is part:
            continue
        if part is None:
            new.train(module.training)
            continue
        replacement._modules[name] = part
        if _ORIGINAL not in part.__dict__:  # by an earlier call
            pairs += _pairs(part, new)
    return pairs


def _keep_what_hangs_on(module: nn.Module, replacement: nn.Module) -> None:
    """Hooks, training mode, and tensors, modules and attributes that ours knows nothing of."""
    old, new = module.__dict__, replacement.__dict__
    new.update(_of_any_module(old))
    for table in _TABLES:
        for name, value in old[table].items():
            new[table].setdefault(name, value)
    new["_non_persistent_buffers_set"].update(old["_non_persistent_buffers_set"])
    for name, value in old.items():
        if not hasattr(type(replacement), name):
            new.setdefault(name, value)


def _of_any_module(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of its attributes that mean the same whatever the class."""
    return {name: attributes[name] for name in ("training", *_HOOKS) if name in attributes}


def _is_compiled(module: nn.Module) -> bool:
    """By torch.compile(module) or module.compile()."""
    return (
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    )


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    tensors = dict(module.named_parameters(remove_duplicate=False))
    return {**tensors, **dict(module.named_buffers(remove_duplicate=False))}


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.data_ptr() == other.data_ptr() and one.shape == other.shape)
