"""The conditions that `vqgan-fast sample` draws pictures of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .condition_maps import Grid, read_maps
from .held_out import held_out_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..data import CropMap
    from ..models import CodesCondition, LatentTransformer
    from ..models.conditions import Condition, Tokens

Rows = tuple[tuple[str, "Tensor"], ...]


class Turn(NamedTuple):
    """Which of several conditions are drawn: `number` pictures take them in turn, the first one
    that with the number `first`."""

    first: int
    number: int

    def of(self, conditions: int) -> list[int]:
        """Which of so many, each once, in the order of the pictures."""
        pictures = range(min(self.number, conditions))
        return [(self.first + picture) % conditions for picture in pictures]


class Given(NamedTuple):
    """The `tokens` of N conditions, the `total` of them that there was to choose from, the `grid`
    of codes that they lie on (None: they lie on none), and `rows` of pictures for a page, (name,
    (N, 3, height, width) in [-1, 1]). A part of the tokens, or a row, that has one entry is of all
    N. Each is encoded on its own, so that it does not depend on which others are."""

    tokens: Tokens
    total: int
    grid: Grid | None = None
    rows: Rows = ()

    def of(self, numbers: Sequence[int]) -> Tokens:
        """The tokens of these pictures; conditions come again where there are more pictures."""
        from ..models.conditions import map_tokens

        return map_tokens(lambda part: _taken(part, numbers), self.tokens)

    def without(self, token: int) -> Tokens:
        """Tokens like those of one condition, with `token` in each place: that there is none."""
        from ..models.conditions import filled_tokens

        return filled_tokens(self.of([0]), token)

    def rows_of(self, numbers: Sequence[int]) -> list[tuple[str, Tensor]]:
        """The rows of these pictures."""
        return [(name, _taken(images, numbers)) for name, images in self.rows]


def given_condition(
    model: LatentTransformer,
    token: str | None,
    files: Sequence[Sequence[Path]],
    grid: Grid | None,
    turn: Turn,
) -> Given:
    """What is told on the command line, for each part of the model's condition.

    Args:
        token: of a class, its number or its name; of a model without a condition, the token that
            it starts from.
        files: of maps, a list for each kind that the model is conditioned on, in its order.
        grid: of the picture, in codes; None takes that of the maps.
        turn: which of several maps of a kind are drawn.

    Raises:
        FileNotFoundError, ValueError: what the model is conditioned on is missing, or something
            else is given; a file cannot be used, and is named.
    """
    from ..models import CodesCondition, CombinedCondition, LabelCondition

    stage, device = model.cond_stage_model, model.transformer.head.weight.device
    several = isinstance(stage, CombinedCondition)
    parts = list(stage.parts) if several else [stage]
    maps = [part for part in parts if isinstance(part, CodesCondition)]
    _check_given(stage, maps, token, files)
    # Maps first: they decide the grid that coordinates are of.
    read, rows, tokens = [], [], {}
    for part, own_files in zip(maps, files, strict=True):
        kind, values, grid = read_maps(part, own_files, grid)
        read.append((kind, values))
    totals = [len(values) for _, values in read]
    if len({*totals} - {1}) > 1:
        kinds = [part.maps["kind"] for part in maps]
        numbers = ", ".join(map("{} of {}".format, totals, kinds))
        raise ValueError(f"--condition must have as many maps of each kind, or one, got {numbers}")
    for part, (kind, values) in zip(maps, read, strict=True):
        chosen = [values[number] for number in turn.of(len(values))]
        tokens[part], row = _encoded(part, kind, chosen, device)
        rows.append(row)
    for part in parts:
        if part not in tokens:
            is_label = isinstance(part, LabelCondition)
            own = token if is_label or not several else None
            tokens[part] = _without_files(part, own, grid, device)
    ordered = tuple(tokens[part] for part in parts)
    grid = grid if stage.num_grids else None
    return Given(ordered if several else ordered[0], max(totals, default=1), grid, tuple(rows))


def held_out_condition(run: Path, model: LatentTransformer, turn: Turn) -> Given:
    """The conditions of the held-out crops of a run, with the crops' own pictures.

    Args:
        turn: which of them are drawn.

    Raises:
        ConfigError, ValueError: the run has no configuration, or no held-out pictures.
    """
    import torch

    from ..data import to_model_range

    held_out = held_out_of(run, model)
    total = len(held_out.crops.images)
    held_out = held_out.taken(turn.of(total))
    tokens = held_out.tokens(model.transformer.head.weight.device, batch=1)
    drawn = [one.crops.drawn(1) for one in held_out.split(1)]
    rows = [
        (type(kind).__name__, to_model_range(torch.cat(maps)))
        for kind, maps in zip(held_out.crops.kinds, zip(*drawn, strict=True), strict=True)
    ]
    rows.append(("picture", to_model_range(held_out.crops.images)))
    side = held_out.size // model.first_stage_model.downsampling_factor
    grid = (side, side) if model.cond_stage_model.num_grids else None
    return Given(tokens, total, grid, tuple(rows))


def _check_given(
    stage: Condition,
    maps: Sequence[CodesCondition],
    token: str | None,
    files: Sequence[Sequence[Path]],
) -> None:
    """ValueError if options are given that the model has no use for, or wanted ones are not."""
    names = [
        part.maps["kind"] if part in maps else part.config["name"]
        for part in getattr(stage, "parts", [stage])
    ]
    if token is not None and "label" not in names and names != ["sos"]:
        raise ValueError(f"--cond is for a class, this model is conditioned on {', '.join(names)}")
    kinds = [part.maps["kind"] for part in maps]
    if files and not maps:
        raise ValueError(
            f"--condition is for models conditioned on maps, this one is on {', '.join(names)}"
        )
    if maps and not files:
        raise ValueError(
            f"--condition FILE or --held-out must be given: the model wants {' and '.join(kinds)}"
        )
    if len(files) != len(maps):
        raise ValueError(
            f"--condition must be given {len(maps)} times, for {' and then '.join(kinds)}, got "
            f"{len(files)}"
        )


def _encoded(
    stage: CodesCondition, kind: CropMap, maps: Sequence[np.ndarray], device: object
) -> tuple[Tensor, tuple[str, Tensor]]:
    """Tokens (N, h, w) of N maps, and the maps as a row of pictures."""
    import torch

    from ..data import to_model_range
    from ..data.stream import channels_first

    tokens, drawn = [], []
    for values in maps:
        x = kind.to_model(channels_first(values)[None], device)
        tokens.append(stage(1, device, x))
        drawn.append(kind.draw(x))
    return torch.cat(tokens), (stage.maps["kind"], to_model_range(torch.cat(drawn)))


def _without_files(
    stage: Condition, token: str | None, grid: Grid | None, device: object
) -> Tensor:
    """The tokens (1, T) or (1, h, w) of what needs no files: a class, coordinates, no condition."""
    import torch

    from ..models import CoordinateCondition, LabelCondition
    from ..sampling import coordinate_tokens

    if token is not None:
        return torch.tensor([[_class_number(stage, token)]], device=device)
    if isinstance(stage, LabelCondition):
        raise ValueError("--cond must be given, the class to draw: a number, or a class's name")
    if not isinstance(stage, CoordinateCondition):
        return stage(1, device)
    if grid is None:
        raise ValueError("--grid or --size must be given: coordinates are those of the grid")
    return coordinate_tokens(grid, stage.n_tokens, stage.factor).to(device)


def _class_number(stage: Condition, text: str) -> int:
    classes = getattr(stage, "classes", None) or []
    if text in classes:
        return classes.index(text)
    if not text.removeprefix("-").isdecimal():
        if hasattr(stage, "token"):
            raise ValueError(f"--cond must be left out: this model has no classes, got {text}")
        more = " ..." if len(classes) > 5 else ""
        known = f"; the classes are {', '.join(classes[:5])}{more}" if classes else ""
        raise ValueError(f"--cond must be a token or the name of a class, got {text}{known}")
    number, n_classes = int(text), getattr(stage, "n_classes", None)
    start = getattr(stage, "token", number)  # of a model without a condition, which knows no other
    if number != start:
        raise ValueError(
            f"--cond must be {start}, what a model without a condition starts from, or be left "
            f"out, got {number}"
        )
    if n_classes is not None and not 0 <= number < n_classes:
        raise ValueError(f"--cond must be a class in [0, {n_classes}), got {number}")
    return number


def _taken(rows: Tensor, numbers: Sequence[int]) -> Tensor:
    return rows[[number % len(rows) for number in numbers]]
