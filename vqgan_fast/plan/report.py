"""The plan of a run as numbers, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vqgan_fast.train import TransformerRun
from vqgan_fast.train.agreement import share_batch
from vqgan_fast.train.config import ConfigError

from .assumed import LINK_GBYTES, RESERVE_GIB
from .estimate import CARDS_GIB, GIB, duration, largest_batch, on_a_card
from .load import load_plan
from .rehearsal import Rehearsal, Setting, StepMemory


def make_plan(
    path: str,
    overrides: Iterable[str] = (),
    *,
    gpus: int = 1,
    memory_gib: float | None = None,
    sharded: bool = False,
    compare: bool = False,
    rate: float | None = None,
    link_gbytes: float = LINK_GBYTES,
    reserve_gib: float = RESERVE_GIB,
) -> dict[str, Any]:
    """What `vqgan-fast plan` prints, in bytes and seconds; the arguments are the command's.

    Raises:
        ConfigError, DataError: a value of the configuration, or its codes, cannot be used.
    """
    config, stages = load_plan(path, overrides)
    config = share_batch(config, gpus)
    sharded = sharded or getattr(config.optim, "sharded", False)
    if sharded and not isinstance(config, TransformerRun):
        raise ConfigError("--sharded is for stage: transformer; a VQGAN is replicated on each card")
    rehearsal = Rehearsal(config, stages)
    capacities = CARDS_GIB if memory_gib is None else (memory_gib,)
    given = Setting(
        config.data.batch_size, config.optim.precision, config.optim.activation_checkpointing
    )
    settings = [given]
    if compare:
        others = [("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True)]
        settings += [
            replace(given, precision=precision, checkpointing=anew) for precision, anew in others
        ]
        settings = list(dict.fromkeys(settings))
    rows = []
    for setting in settings:
        memory = rehearsal.step(setting)
        card = on_a_card(
            memory, gpus, sharded=sharded, precision=setting.precision,
            accumulate=config.optim.accumulate, reserve_gib=reserve_gib,
        )  # fmt: skip
        beside = card.total - card.working
        growths = _growths(rehearsal, setting, memory, round(max(capacities) * GIB) - beside)

        def most(gib: float, card=card, beside=beside, setting=setting, growths=growths):
            capacity = round(gib * GIB)
            fits = setting.batch_size * (card.total <= capacity)
            return max(fits, min(largest_batch(pair, beside, capacity) for pair in growths))

        rows.append({
            "batch_size": setting.batch_size,
            "precision": setting.precision,
            "checkpointing": setting.checkpointing,
            "total": card.total,
            "parts": vars(card),
            "gradients": memory.gradients,
            "activations": memory.activations,
            "fits": None if memory_gib is None else card.total <= memory_gib * GIB,
            "largest_batch": {
                f"{capacity:g}": most(capacity) for capacity in capacities
            },
        })  # fmt: skip
    plan = {
        "stage": config.stage,
        "size": config.data.size,
        "grid": None if stages is None else rehearsal.grid,
        "codes": None if stages is None else stages.about_codes,
        "gpus": gpus,
        "sharded": sharded,
        "memory_gib": memory_gib,
        "settings": rows,
    }
    if rate is not None:
        optim, gradients = config.optim, rows[0]["gradients"]
        time = duration(
            given, gpus, optim.steps, optim.accumulate, rate, gradients, link_gbytes, sharded
        )
        plan["duration"] = vars(time)
    return plan


def _growths(
    rehearsal: Rehearsal, setting: Setting, memory: StepMemory, room: int
) -> list[dict[int, int]]:
    """Activations of two batch sizes each: how they grow with the batch, up to so much room.

    In a large batch they may grow faster than in a small one, where what does not grow, such as
    copies of weights, takes most: if encoding the pictures, without a transformer, comes to be the
    peak.
    """

    def activations(size: int) -> int:
        return rehearsal.step(replace(setting, batch_size=size)).activations

    other = 1 if setting.batch_size > 1 else 2
    near = {setting.batch_size: memory.activations, other: activations(other)}
    most = largest_batch(near, 0, room)
    if most <= max(near) or (there := activations(most)) <= room:
        return [near]
    return [near, {most // 2: activations(most // 2), most: there}]


def render(plan: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """The plan as text; `parts` are the names of the parts of a card's memory."""
    given, *others = plan["settings"]
    where = f"each of {plan['gpus']} cards" if plan["gpus"] > 1 else "one card"
    about_codes = plan["codes"]
    height, width = plan["grid"] if about_codes else (plan["size"], plan["size"])
    lines = [
        f"stage {plan['stage']}: {given['batch_size']} samples of {height} x {width}"
        f"{' codes' if about_codes else ''} on {where}, {_describe(given)}",
        *([about_codes] if about_codes else []),
        "",
        f"{'on a card at the peak of a step':<36}{'GiB':>8}",
    ]
    for name, size in given["parts"].items():
        if size:
            lines.append(f"  {parts[name]:<34}{size / GIB:>8.2f}")
    lines.append(f"  {'together':<34}{given['total'] / GIB:>8.2f}")
    early = given["activations"] - given["parts"]["working"]
    if early > 0:
        lines += [
            "",
            f"activations and temporaries reach {given['activations'] / GIB:.2f} GiB in all, "
            f"{early / GIB:.2f} of it where gradients come later",
        ]
    lines += ["", *_batches(given, others)]
    if given["fits"] is not None:
        verdict = "fits into" if given["fits"] else "does NOT fit into"
        lines += ["", f"it {verdict} {plan['memory_gib']:g} GiB"]
    if "duration" in plan:
        time = plan["duration"]
        lines += [
            "",
            f"{time['steps']} steps, {time['samples']} samples: {_hours(time['best'])} if the "
            f"exchange between cards hides behind the computation, {_hours(time['worst'])} if none "
            "of it does",
        ]
    return "\n".join(lines)


def _batches(given: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table of the largest batch of a card, for each setting and size of card."""
    sizes = list(given["largest_batch"])
    lines = [f"{'largest batch of a card of (GiB)':<36}" + "".join(f"{s:>8}" for s in sizes)]
    for row in (given, *others):
        cells = "".join(f"{row['largest_batch'][size]:>8}" for size in sizes)
        lines.append(f"  {_describe(row):<34}{cells}")
    return lines


def _describe(row: Mapping[str, Any]) -> str:
    return row["precision"] + (", checkpointing" if row["checkpointing"] else "")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
