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
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EMA_PREFIX = "model_ema."


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
    if use_ema is not False:
        # The shadow of a parameter has its name without the dots.
        weights = {
            name: shadows.get(EMA_PREFIX + name.replace(".", ""), value)
            for name, value in weights.items()
        }
    return weights


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
        raise ValueError(f"{path} is damaged, or no checkpoint: {_first(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a state dict, got {type(content).__name__}")
    return content


def _first(error: Exception) -> str:
    """The first line: torch's advice behind it is to load the file without any check."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _only_tensors(weights: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path} must hold a state dict, got {type(weights).__name__}")
    wrong = {name: type(v).__name__ for name, v in weights.items() if not isinstance(v, Tensor)}
    if wrong:
        name, kind = next(iter(wrong.items()))
        raise ValueError(
            f"{path} holds no state dict: expected tensors by name, got {name} of type {kind}"
        )
    return dict(weights)
