"""Reading a Lightning checkpoint without trusting it.

A checkpoint is a pickle, and a pickle says what is to be called. torch's restricted unpickler
(`weights_only=True`) builds tensors and plain containers alone. Checkpoints of the reference also
name classes of the trainer, around the weights; each of those few stands here for an object that
takes anything and does nothing. Whatever else a file names is refused before it is looked up.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EMA_PREFIX = "model_ema."
COUNTS = {EMA_PREFIX + "decay", EMA_PREFIX + "num_updates"}  # no weights' averages
# What has none: the loss, which a trainer may leave out, and what is no parameter.
NOT_AVERAGED = re.compile(
    r"^(loss\.|colorize)|\.(mask|running_mean|running_var|num_batches_tracked)$"
)
SHOWN = 8  # names in a warning; the rest are counted


class _Ignored:
    """In place of an object of the trainer: no code of its class is run, its state is dropped."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


# Where a checkpoint of the reference may name something that is no tensor and no plain container.
IGNORED = (
    # The keys of `callbacks`, before Lightning 1.5.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    # `best_model_score` and the like.
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    # `hyper_parameters`, where a model saves the configuration that it was built from.
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "collections.defaultdict",
    "typing.Any",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
)


def read_weights(path: str | os.PathLike[str], use_ema: bool | None = None) -> dict[str, Tensor]:
    """The weights of a checkpoint, by the reference's names; a file's pages are read when used.

    Understood are Lightning's checkpoints, bare state dicts, either of them pickled as torch does
    it, and .safetensors. Averaged weights are those of latent diffusion's `model_ema` and those of
    Lightning's WeightAveraging callback.

    Args:
        path: the file.
        use_ema: True for the averaged weights, False for those last trained, None for the averaged
            ones where there are any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, it names code, it holds no state dict, or use_ema is True and it
            holds no averaged weights.
    """
    path = Path(path)
    content = _read(path)
    weights = content.get("state_dict", content)
    last = content.get("current_model_state")  # only WeightAveraging writes it, beside its average
    if last is not None and use_ema is False:
        weights = last
    weights = _only_tensors(weights, path)
    shadows = {name: value for name, value in weights.items() if name.startswith(EMA_PREFIX)}
    weights = {name: value for name, value in weights.items() if name not in shadows}
    if use_ema and last is None and not shadows:
        raise ValueError(
            f"{path} holds no averaged weights (neither {EMA_PREFIX}* nor current_model_state); "
            "use_ema=None takes them only where there are any"
        )
    if use_ema is False or not shadows:
        return weights
    if not weights:
        raise ValueError(
            f"{path} holds averaged weights ({EMA_PREFIX}*) alone; what they are the averages of, "
            "whose names tell where they belong, is missing"
        )
    return _averaged(weights, shadows, path)


def _averaged(
    weights: Mapping[str, Tensor], shadows: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The weights with their averages in their places; a warning names what does not fit."""
    # The shadow of a parameter has its name without the dots.
    places = {name: EMA_PREFIX + name.replace(".", "") for name in weights}
    strange = shadows.keys() - places.values() - COUNTS
    bare = [
        name
        for name, place in places.items()
        if place not in shadows and not NOT_AVERAGED.search(name)
    ]
    for names, what in (
        (sorted(strange), "averages of weights that it does not hold"),
        (bare, "no averages of some weights, which stay as they were last trained"),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            warnings.warn(f"{path} holds {what}: {', '.join(names[:SHOWN])}{more}", stacklevel=5)
    return {name: shadows.get(places[name], value) for name, value in weights.items()}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """`state_dict` as a checkpoint has it, or all of it if it has none; else as `read_weights`."""
    path = Path(path)
    content = _read(path)
    return _only_tensors(content.get("state_dict", content), path)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    ignored = [(_Ignored, name) for name in IGNORED]
    advice = (
        "reading it could run code of whoever made the file, so nothing of it was read. If you "
        "trust the file, load it where it was made and save its state_dict() alone"
    )
    try:
        with torch.serialization.safe_globals(ignored):
            # Mapped, so that the optimizers' states, two thirds of a file, are never read.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            raise ValueError(
                f"{path} names {named[1]}, which no checkpoint of weights needs: {advice}"
            ) from None
        # torch's own text advises to read the file without any check.
        raise ValueError(
            f"{path} is no checkpoint that can be read: it is a pickle with more in it than "
            f"tensors and plain containers, or of another program; {advice}"
        ) from None
    except Exception as error:  # broken bytes come out of the unpickler as nearly anything
        # Of what is no pickle at all the unpickler says a number or "pop from empty list".
        said = isinstance(error, RuntimeError | OSError)
        reason = _first(error) if said else "expected a file that torch.save wrote"
        raise ValueError(f"{path} is damaged, or no checkpoint: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a state dict, got {type(content).__name__}")
    return content


def _first(error: Exception) -> str:
    """The first sentence: torch's advice behind it is to load the file without any check."""
    text = str(error).strip()
    return re.split(r"\n|(?<=\.) ", text)[0] if text else type(error).__name__


def _only_tensors(weights: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path} must hold a state dict, got {type(weights).__name__}")
    for name, value in weights.items():
        kind = type(value).__name__
        if isinstance(name, str) and isinstance(value, Tensor):
            if value.layout == torch.strided and not value.is_meta and not value.is_complex():
                continue
            kind = "no data" if value.is_meta else f"{value.layout}, {value.dtype}"
        raise ValueError(
            f"{path} holds no state dict: expected dense tensors by name, got {name!r} of {kind}"
        )
    return dict(weights)
