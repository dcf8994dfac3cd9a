"""Saving a model as a folder that says how to build it again: config.json + model.safetensors."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

Model = TypeVar("Model", bound="Pretrained")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place once the block has succeeded.

    Whoever reads `path` sees the old file or the whole new one, never a part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_config(folder: Path, model_type: str, config: Mapping[str, Any]) -> None:
    """Writes config.json: the model's class name and its constructor's arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG_FILE) as path:
        # operator.index: sizes may be numpy's integers.
        text = json.dumps({"model_type": model_type, **config}, indent=2, default=operator.index)
        path.write_text(text + "\n")


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """Reads config.json back.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a JSON object, or it describes another class than `model_type`.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {CONFIG_FILE}: expected a folder written by "
            f"{model_type}.save_pretrained"
        )
    config = _read_json(path)
    found = config.pop("model_type", None)
    if found != model_type:
        raise ValueError(f"{path} describes a model of type {found}, expected {model_type}")
    return config


def saved_class(folder: Path) -> str | None:
    """The class that config.json was written for; None where no config.json says so."""
    path = folder / CONFIG_FILE
    return _read_json(path).get("model_type") if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # JSON, or its encoding, is broken
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


class Pretrained:
    """Gives an nn.Module with a `config` (its constructor's arguments) a folder on disk."""

    config: dict[str, Any]

    def save_pretrained(
        self, folder: str | os.PathLike[str], state_dict: Mapping[str, Tensor] | None = None
    ) -> None:
        """Writes config.json and model.safetensors, each replaced atomically.

        Args:
            folder: made where missing.
            state_dict: weights to write instead of the model's own, such as their moving average.
        """
        # Only saving and loading need safetensors; the models themselves run without it.
        from safetensors.torch import save_file

        folder = Path(folder)
        weights = self.state_dict() if state_dict is None else state_dict
        tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
        write_config(folder, type(self).__name__, self.config)
        with replacing(folder / WEIGHTS_FILE) as path:
            save_file(tensors, path, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | os.PathLike[str]) -> Model:
        """Builds the model of a folder that `save_pretrained` wrote: on the CPU, in eval mode.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or configuration and weights do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        config = read_config(folder, cls.__name__)
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}")
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        try:
            # Nothing is allocated or initialised on "meta": the weights are put in as they are.
            with torch.device("meta"):
                model = cls(**config)
            model.load_state_dict(weights, assign=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{folder / CONFIG_FILE} does not fit its model: {error}") from error
        return model.eval()
