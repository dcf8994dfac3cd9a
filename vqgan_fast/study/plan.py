"""Which models a study trains: a YAML file, read into the configuration of each run.

vqgan: {...}           what all runs of stage 1 share, keys of VQGANRun
transformer: {...}     what all runs of stage 2 share, keys of TransformerRun
crops_per_picture: 64  codes are written once, of so many crops; null encodes as training goes
first_stages:          name: what differs from `vqgan`, or colours: K for k-means
priors:                name: what differs from `transformer`, and its first_stage by name
comparisons:           question: names of what is compared
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..models.taming.config import read_yaml
from ..train import ConfigError, TransformerRun, VQGANRun, build_config
from ..train.check_sizes import check_discriminator

KEYS = ("vqgan", "transformer", "crops_per_picture", "first_stages", "priors", "comparisons")
COMPARISONS = ("priors", "factors", "losses", "hierarchies", "orderings")
OF_FIRST_STAGES = ("losses", "hierarchies")
WHOLE = [0.0, 0.0, 1.0, 1.0]


@dataclass
class FirstStage:
    """A first stage: `run` trains it, or with `colours` it is k-means of so many colours."""

    name: str
    run: VQGANRun
    colours: int | None


@dataclass
class Prior:
    """A second stage over the codes of the first stage of that name."""

    name: str
    first_stage: str
    run: TransformerRun


@dataclass
class Plan:
    """Everything that a study trains, and what it compares.

    `comparisons` has the names of priors (of first stages for OF_FIRST_STAGES), in the order of a
    table.
    """

    output: Path
    first_stages: dict[str, FirstStage]
    priors: dict[str, Prior]
    comparisons: dict[str, list[str]]
    crops_per_picture: int | None

    def codes_file(self, first_stage: str) -> Path:
        return self.output / "codes" / f"{first_stage}.safetensors"


@dataclass(frozen=True)
class Pictures:
    """Where they are: folders or list files. Without `validation` those regions of `train` are held
    out that the configuration names."""

    train: Path
    validation: Path | None = None

    def keys(self) -> dict[str, Any]:
        """The keys of a run's `data`."""
        if self.validation is None:
            return {"train": str(self.train), "validation": str(self.train)}
        return {
            "train": str(self.train),
            "validation": str(self.validation),
            "train_region": WHOLE,
            "validation_region": WHOLE,
        }


def load_plan(path: str, output: Path, pictures: Pictures) -> Plan:
    """The plan of a YAML file, with every run's configuration checked.

    Args:
        path: a file, or "toy" or "paper" for those that come with the package.
        output: the study's folder; each run has a folder of its own in it.

    Raises:
        ConfigError: the file is missing or none, a key is unknown, a value does not fit, nothing is
            held out, a name is that of nothing.
    """
    shipped = files("vqgan_fast") / "configs" / f"study_{path}.yaml"
    file = Path(str(shipped)) if shipped.is_file() else Path(path)
    if not file.is_file():
        raise ConfigError(f"there is no study {path}: give toy, paper or a YAML file")
    given = read_yaml(file)
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"there is no key {key} (in {file}); known here: {', '.join(KEYS)}")
    first_stages = {
        name: _first_stage(name, changes or {}, given, output, pictures, file)
        for name, changes in (given.get("first_stages") or {}).items()
    }
    priors = {
        name: _prior(name, changes or {}, given, output, first_stages, file)
        for name, changes in (given.get("priors") or {}).items()
    }
    comparisons = given.get("comparisons") or {}
    for question, names in comparisons.items():
        if question not in COMPARISONS:
            raise ConfigError(
                f"comparisons in {file} must be among {', '.join(COMPARISONS)}, got {question}"
            )
        known = first_stages if question in OF_FIRST_STAGES else priors
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"comparisons.{question} in {file} names {name}, which is not there"
                )
    return Plan(output, first_stages, priors, comparisons, given.get("crops_per_picture"))


def _first_stage(
    name: str,
    changes: Mapping[str, Any],
    given: Mapping[str, Any],
    output: Path,
    pictures: Pictures,
    file: Path,
) -> FirstStage:
    own = {key: value for key, value in changes.items() if key != "colours"}
    folder = {"run_dir": str(output / "first_stages" / name), "stage": "vqgan"}
    run = _build([given.get("vqgan"), own, {**folder, "data": pictures.keys()}], f"{file}, {name}")
    if pictures.validation is None and _overlap(run.data.train_region, run.data.validation_region):
        raise ConfigError(
            f"--validation must be given, held-out pictures: {name} in {file} trains on "
            f"data.train_region = {run.data.train_region} of the pictures and is measured on "
            f"data.validation_region = {run.data.validation_region} of the same, which overlap"
        )
    if changes.get("colours") is None:  # colours are not trained
        check_discriminator(run)
    return FirstStage(name, run, changes.get("colours"))


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two regions [left, top, right, bottom] have more than an edge in common."""
    return all(max(one[i], other[i]) < min(one[i + 2], other[i + 2]) for i in (0, 1))


def _prior(
    name: str,
    changes: Mapping[str, Any],
    given: Mapping[str, Any],
    output: Path,
    first_stages: Mapping[str, FirstStage],
    file: Path,
) -> Prior:
    own = dict(changes)
    first_stage = own.pop("first_stage", None)
    if first_stage not in first_stages:
        raise ConfigError(
            f"first_stage of {name} in {file} must be one of {', '.join(first_stages)}, got "
            f"{first_stage!r}"
        )
    data = vars(first_stages[first_stage].run.data)
    shared = ("train", "validation", "size", "resize", "train_region", "validation_region")
    fixed = {
        "run_dir": str(output / "priors" / name),
        "stage": "transformer",
        "first_stage": str(output.parent),  # one that exists already; the real one comes below
        "data": {key: data[key] for key in shared},
    }
    run = _build([given.get("transformer"), own, fixed], f"{file}, {name}")
    run.first_stage = first_stages[first_stage].run.run_dir
    return Prior(name, first_stage, run)


def _build(layers: list[Mapping[str, Any] | None], source: str) -> VQGANRun | TransformerRun:
    merged = OmegaConf.merge(*(OmegaConf.create(dict(layer or {})) for layer in layers))
    return build_config(OmegaConf.to_container(merged, resolve=True), source)
