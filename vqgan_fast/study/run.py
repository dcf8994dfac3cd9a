"""The study from top to bottom."""

from __future__ import annotations

import json
import shlex
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..demo.photos import photographs, write_list
from ..demo.settings import settle_perceptual_loss, versions
from ..losses import PerceptualLoss
from ..models.pretrained import replacing
from ..train import ConfigError, save_config
from ..train.config import LossConfig
from ..train.run_log import say
from .measure import measure_first_stage, measure_prior
from .pictures import draw_plots, draw_sheets
from .plan import OF_FIRST_STAGES, Pictures, Plan, load_plan
from .report import write_page
from .stages import is_finished, make_codes, make_first_stage, make_prior

LIST_FILE = "photographs.txt"
SETTINGS = "settings.json"
CONFIGS = "configs"
LAUNCHER = "torchrun --nproc-per-node 8 -m vqgan_fast"
CAUTION = """\
These are models of minutes on two CPU cores: they show that every comparison runs and how it is
measured, not how the paper's models compare; `vqgan-fast study --config paper` has its sizes.
Trained again with another number of threads, nats per code differ by some tenths, and the orders of
codes change places.
"""


def run_study(
    config: str,
    output: Path,
    *,
    data: Path | None = None,
    validation: Path | None = None,
    page: Path | None = None,
) -> dict[str, Any]:
    """Train what is not there yet, measure all, write study.json, study.md and the pictures.

    Args:
        config: "toy", "paper", or a YAML file as `plan` describes it.
        output: the study's folder. What is finished in it is kept, what is not is gone on with.
        data: a folder of pictures or a .txt list; None takes the photographs of scikit-image.
        validation: held-out pictures; None holds out the regions of `data` that config names.
        page: write the page there as well, its pictures into `images` beside it.

    Returns:
        What study.json holds.

    Raises:
        ConfigError: a setting that cannot be used.
        OSError: there are no pictures.
        TrainingInterrupted: SIGINT or SIGTERM; the same command goes on.
    """
    plan = prepare(config, output, data, validation)
    stages, priors = plan.first_stages.values(), plan.priors.values()
    coded = dict.fromkeys(prior.first_stage for prior in priors)
    jobs = [
        *((f"first stage {stage.name}", make_first_stage, (stage,)) for stage in stages),
        *((f"codes of {name}", make_codes, (plan, name)) for name in coded),
        *((f"second stage {prior.name}", make_prior, (plan, prior)) for prior in priors),
    ]
    for number, (name, job, arguments) in enumerate(jobs, start=1):
        say(f"[{number}/{len(jobs)}] {name}")
        job(*arguments)

    say("measuring")
    perceptual, described = _perceptual()
    looked_at = {name for q in OF_FIRST_STAGES for name in plan.comparisons.get(q, [])}
    results = {
        "about": _about(config, data, validation),
        "comparisons": plan.comparisons,
        "first_stages": {
            # LPIPS tells reconstructions apart; its network takes no crops as small as f1's.
            name: measure_first_stage(stage, perceptual if name in looked_at else None)
            for name, stage in plan.first_stages.items()
        },
        "priors": {name: measure_prior(plan, prior) for name, prior in plan.priors.items()},
        "perceptual": described,
        "versions": versions(),
    }
    with replacing(output / "study.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    say("pictures and page")
    draw_plots(results, output)
    draw_sheets(plan, output)
    write_page(results, output / "study.md", output)
    if page is not None:
        images = page.parent / "images"
        images.mkdir(parents=True, exist_ok=True)
        for picture in output.glob("study_*.png"):
            (images / picture.name).write_bytes(picture.read_bytes())
        write_page(results, page, images)
    return results


def prepare(
    config: str,
    output: Path,
    data: Path | None,
    validation: Path | None,
    write_only: bool = False,
) -> Plan:
    """The plan, with its folder made and the list of pictures in it.

    Args:
        config, output, data, validation: as `run_study`.
        write_only: the plan is for `write_configs`.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    if data is None:
        data = output / LIST_FILE
        write_list(photographs(), data)
    plan = load_plan(config, output, Pictures(data, validation))
    if write_only and plan.crops_per_picture is not None:
        raise ConfigError(
            f"--write-only needs crops_per_picture: null, {config} has {plan.crops_per_picture}: "
            "its second stages train on codes that only the study itself writes, between the stages"
        )
    _refuse_another_study(plan)
    return plan


def _refuse_another_study(plan: Plan) -> None:
    """What is finished in a folder is kept, so it must be what this study asks for.

    Raises:
        ConfigError: the folder holds a study with other settings.
    """
    runs = {**plan.first_stages, **plan.priors}
    settings = {
        "crops_per_picture": plan.crops_per_picture,
        "colours": {name: stage.colours for name, stage in plan.first_stages.items()},
        "runs": {name: asdict(entry.run) for name, entry in runs.items()},
    }
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    path = plan.output / SETTINGS
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{plan.output} holds a study with other settings or pictures ({path}), whose models "
            "would be taken for those of this one: choose another --output"
        )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_configs(plan: Plan, launcher: str = LAUNCHER) -> list[str]:
    """Each run's YAML file, and the commands that train them on a cluster, in their order.

    First stages without a network are made at once. When the commands have run, `run_study` finds
    everything finished, and measures.
    """
    folder = plan.output / CONFIGS
    folder.mkdir(exist_ok=True)
    commands = []
    for stage in plan.first_stages.values():
        if stage.colours is not None:
            make_first_stage(stage)
            continue
        commands.append((stage.run, folder / f"{stage.name}.yaml"))
    for prior in plan.priors.values():
        commands.append((prior.run, folder / f"{prior.name}.yaml"))
    for run, path in commands:
        save_config(run, path)
    return [
        f"{launcher} train {shlex.quote(str(path))}"
        for run, path in commands
        if not is_finished(run)
    ]


def _perceptual() -> tuple[PerceptualLoss | None, str]:
    loss = LossConfig(perceptual_net="squeeze", perceptual_weights="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page says it
        settled = settle_perceptual_loss(loss)
        return PerceptualLoss("squeeze", loss.perceptual_weights), settled.description


def _about(config: str, data: Path | None, validation: Path | None) -> str:
    what = "the photographs of scikit-image" if data is None else str(data)
    held_out = (
        "regions of the same pictures that no training crop touches"
        if validation is None
        else "other pictures"
    )
    caution = CAUTION if config == "toy" else ""
    return f"Configuration: {config}. Data: {what};\nheld out: {held_out}.\n\n{caution}"
