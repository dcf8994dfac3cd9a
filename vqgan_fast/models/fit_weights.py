"""Putting foreign weights into a model, with a report of all that does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .config_error import ConfigError

Model = TypeVar("Model", bound=nn.Module)
SHOWN = 8  # names of each kind; the rest are counted


def build_with_weights(
    cls: type[Model],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    weights_from: object,
    config_from: object,
    strict: bool,
) -> Model:
    """A model with copies of these weights, in fp32 (integers stay), on the CPU, in eval mode.

    Args:
        cls, config: the model's class and its arguments.
        weights: by name.
        weights_from, config_from: what errors call the two.
        strict: False makes missing and unexpected weights a warning; the missing start untrained.

    Raises:
        ConfigError: the arguments cannot work.
        ValueError: a weight has another shape, or is of integers; or strict, and one is missing or
            unexpected.
    """
    model = _construct(cls, config, config_from, torch.device("meta"))
    expected = model.state_dict()
    misfits = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    integers = [
        f"{name} is {weights[name].dtype}"
        for name, value in expected.items()
        if name in weights and value.is_floating_point() and not weights[name].is_floating_point()
    ]
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if misfits or integers or missing or unexpected:
        report = f"{weights_from} does not fit the {cls.__name__} of {config_from}" + "".join(
            f"\n  {len(names)} {what}: {_listing(names, separator)}"
            for names, what, separator in (
                (misfits, "of another shape", "; "),
                (integers, "that should be floating point", "; "),
                (missing, "missing", ", "),
                (unexpected, "unexpected", ", "),
            )
            if names
        )
        if strict or misfits or integers or len(missing) == len(expected):
            raise ValueError(report)
        warnings.warn(report, stacklevel=4)
    if missing:
        model = _construct(cls, config, config_from, torch.device("cpu"))
    model.load_state_dict(
        {name: _copy(weights[name]) for name in expected if name in weights},
        strict=False,
        assign=True,
    )
    return model.eval()


def _construct(
    cls: type[Model], config: Mapping[str, Any], config_from: object, device: torch.device
) -> Model:
    try:
        with device:
            return cls(**config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config_from}: {error}") from error


def _copy(value: Tensor) -> Tensor:
    # A copy, because the file may be mapped and change; contiguous, as safetensors wants it.
    kept = value.detach().clone(memory_format=torch.contiguous_format)
    return kept.float() if kept.is_floating_point() else kept


def _listing(names: list[str], separator: str) -> str:
    more = f"{separator}and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return separator.join(names[:SHOWN]) + more
