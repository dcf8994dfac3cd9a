"""Reading a configuration: YAML file, overrides on top, errors that a user can act on."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vqgan_fast.models.config_error import ConfigError
from vqgan_fast.models.pretrained import replacing
from vqgan_fast.models.taming.config import read_yaml

from .check_config import check_config
from .config import STAGES, Run, TransformerRun, VQGANRun
from .taming_config import is_taming, translate

SHIPPED = Path(__file__).resolve().parent.parent / "configs"


def load_config(
    path: str | os.PathLike[str], overrides: Iterable[str] = (), check: bool = True
) -> VQGANRun | TransformerRun:
    """Read a run's configuration, ours or one of the reference's own YAML files.

    Args:
        path: the YAML file. A bare name that is no file here, such as "vqgan.yaml", means the one
            that comes with the package.
        overrides: such as "optim.steps=100" or "data.train=photos"; they win over the file.
        check: False leaves the values as they are, whether or not a run could start with them.

    Returns:
        A checked `VQGANRun` or `TransformerRun`.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value does not fit.
    """
    path = _find(Path(path))
    given = read_yaml(path)
    changes = _read_overrides(overrides)
    if is_taming(given):
        given = translate(given, path, changes)
    return build_config(given, str(path), changes, check)


def build_config(
    given: Mapping[str, Any],
    source: str = "the configuration",
    changes: Mapping[str, Any] | None = None,
    check: bool = True,
) -> VQGANRun | TransformerRun:
    """A checked configuration from nested keys and values.

    Args:
        given: keys and values in the nesting of `VQGANRun` or `TransformerRun`.
        source: what errors call `given`.
        changes: keys and values that win over `given`; errors say that they are "on the command
            line".
        check: as `load_config`.

    Raises:
        ConfigError: as `load_config`.
    """
    layers = [(expand(given), f"in {source}"), (expand(changes or {}), "on the command line")]
    stage, named = "vqgan", ""
    for layer, place in layers:
        if "stage" in layer:
            stage, named = layer["stage"], place
    if stage not in list(STAGES):  # what a file holds may be no key of a dict
        raise ConfigError(f"stage must be one of {', '.join(STAGES)}, got {stage!r} {named}")
    merged = OmegaConf.structured(STAGES[stage])
    for layer, place in layers:
        _check_keys(layer, STAGES[stage], stage, place)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ConfigError(_value_message(error, place)) from error
    config = OmegaConf.to_object(merged)
    if check:
        check_config(config)
    return config


def expand(given: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms written out: `condition: sos` is `condition: {kind: sos}`."""
    condition = given.get("condition")
    return {**given, "condition": {"kind": condition}} if isinstance(condition, str) else {**given}


def save_config(config: Run, path: Path) -> None:
    """Write the configuration as it is used, so that `load_config` reads the same run again."""
    with replacing(path) as unfinished:
        unfinished.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")


def _find(path: Path) -> Path:
    """The file itself, or the package's one of that name."""
    if path.is_file():
        return path
    shipped = SHIPPED / path.name
    if path.name == str(path) and shipped.is_file():
        return shipped
    beside = path.parent if path.parent.is_dir() else Path()
    names = {file.name: file for file in [*SHIPPED.glob("*.yaml"), *beside.glob("*.y*ml")]}
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    raise ConfigError(f"there is no configuration file {path}{hint}")


def _read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    overrides = list(overrides)
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"an override must look like optim.steps=100, got {override!r}")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(overrides), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"the overrides {overrides} cannot be read: {error}") from error


def _check_keys(
    layer: Mapping[str, Any], table: type, stage: str, place: str, prefix: str = ""
) -> None:
    """Every key must be in the table; the error names the nearest one that is."""
    known = {entry.name: entry for entry in fields(table)}
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(_unknown_key(name, str(key), known, prefix, stage, place))
        section = _section(known[key])
        if section is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} {place} must hold keys and values, got {value!r}")
        _check_keys(value, section, stage, place, f"{name}.")


def _unknown_key(
    name: str, key: str, known: Mapping[str, Any], prefix: str, stage: str, place: str
) -> str:
    for other, table in STAGES.items():
        if other != stage and name in _all_keys(table):
            return f"{name} {place} belongs to stage: {other}, and this is stage: {stage}"
    elsewhere = [full for full in _all_keys(STAGES[stage]) if full.split(".")[-1] == key]
    near = [prefix + match for match in difflib.get_close_matches(key, known, n=1)]
    for suggestion in elsewhere + near:
        return f"there is no key {name} {place}; did you mean {suggestion}?"
    return f"there is no key {name} {place}; known here: {', '.join(known)}"


def _all_keys(table: type, prefix: str = "") -> list[str]:
    keys = []
    for entry in fields(table):
        keys.append(prefix + entry.name)
        section = _section(entry)
        if section is not None:
            keys += _all_keys(section, f"{prefix}{entry.name}.")
    return keys


def _section(entry: Any) -> type | None:
    """The dataclass of a field that is a section of its own, None for a plain value."""
    factory = entry.default_factory
    return factory if isinstance(factory, type) and is_dataclass(factory) else None


def _value_message(error: OmegaConfBaseException, place: str) -> str:
    reason = str(error).splitlines()[0]
    if reason.startswith("Invalid value assigned") and "ListConfig" in reason:
        reason = "expected a list such as [1, 2]"
    return f"{error.full_key or 'a value'} {place}: {reason}"
