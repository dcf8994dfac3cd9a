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
KIND_KEYS = ("model_type", "_class_name")  # what says the kind of a model: ours, diffusers'

Model = TypeVar("Model", bound="Pretrained")


@contextmanager
def replacing(*paths: Path) -> Iterator[Any]:
    """Yields temporary paths (one: the path itself) that take the place of `paths` at the end.

    Whoever reads one of `paths` sees the old file or the whole new one, never a part. None is
    replaced before all are on disk, so that a full disk leaves all the old ones.
    """
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        yield temporaries[0] if len(paths) == 1 else temporaries
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def write_config(folder: Path, model_type: str, config: Mapping[str, Any]) -> None:
    """Writes config.json: the model's class name and its constructor's arguments.

    Raises:
        FileExistsError: there is one of another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": model_type, **config}
    _refuse_another(folder / CONFIG_FILE, config)
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(_as_json(config))


def write_model(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    weights_file: str = WEIGHTS_FILE,
) -> None:
    """Writes config.json and the weights, both on disk before either takes its place.

    Raises:
        FileExistsError: the folder holds another kind of model.
    """
    # Only saving and loading need safetensors; the models themselves run without it.
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    _refuse_another(folder / CONFIG_FILE, config)
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(folder / CONFIG_FILE, folder / weights_file) as (config_path, weights_path):
        config_path.write_text(_as_json(config))
        save_file(tensors, weights_path, metadata={"format": "pt"})


def _as_json(config: Mapping[str, Any]) -> str:
    # operator.index: sizes may be numpy's integers.
    return json.dumps(config, indent=2, default=operator.index) + "\n"


def _refuse_another(path: Path, config: Mapping[str, Any]) -> None:
    """A model is replaced by one of its own kind only; a config.json of something else stays."""
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text())
        kind = next((found[key] for key in KIND_KEYS if key in found), None)
    except (ValueError, RecursionError, TypeError):
        kind = None
    expected = next(config[key] for key in KIND_KEYS if key in config)
    if kind != expected:
        what = f"a model of type {kind}" if kind else "something that is no model of ours"
        raise FileExistsError(
            f"{path} describes {what} and is not replaced by a {expected}: choose another folder"
        )


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """Reads config.json back.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a JSON object, or it describes another class than `model_type`.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        inside = (folder / place for place in ("model", "vqgan", "model/vqgan"))
        near = [place for place in inside if saved_class(place) == model_type]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(
            f"{folder} holds no {CONFIG_FILE}: expected a folder written by "
            f"{model_type}.save_pretrained{hint}"
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

        Raises:
            FileExistsError: the folder holds another kind of model.
        """
        weights = self.state_dict() if state_dict is None else state_dict
        # torch's fully_shard gives a model a class of its own, made of the model's.
        kinds = (kind for kind in type(self).__mro__ if not kind.__module__.startswith("torch."))
        write_model(Path(folder), {"model_type": next(kinds).__name__, **self.config}, weights)

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
