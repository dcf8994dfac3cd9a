"""The conditions that `vqgan-fast sample` draws pictures of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .condition_maps import Grid, read_maps
from .held_out import held_out_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import CodesCondition, LatentTransformer
    from ..models.conditions import Condition, Tokens

Rows = tuple[tuple[str, "Tensor"], ...]


class Given(NamedTuple):
    """The `tokens` of N conditions, the `grid` of codes that they lie on (None: they lie on none),
    and `rows` of pictures for a page, (name, (N, 3, height, width) in [-1, 1]). A part of the
    tokens, or a row, that has one entry is of all N."""

    tokens: Tokens
    grid: Grid | None = None
    rows: Rows = ()

    @property
    def number(self) -> int:
        """How many conditions there are."""
        parts = self.tokens if isinstance(self.tokens, tuple) else (self.tokens,)
        return max(len(part) for part in parts)

    def of(self, numbers: Sequence[int]) -> Tokens:
        """The tokens of these pictures; conditions come again where there are more pictures."""
        from ..models.conditions import map_tokens

        return map_tokens(lambda part: _taken(part, numbers), self.tokens)

    def rows_of(self, numbers: Sequence[int]) -> list[tuple[str, Tensor]]:
        """The rows of these pictures."""
        return [(name, _taken(images, numbers)) for name, images in self.rows]


def given_condition(
    model: LatentTransformer,
    token: str | None,
    files: Sequence[Sequence[Path]],
    grid: Grid | None,
) -> Given:
    """What is told on the command line, for each part of the model's condition.

    Args:
        token: of a class, its number or its name; of a model that has neither classes nor maps, the
            token itself.
        files: of maps, a list for each kind that the model is conditioned on, in its order.
        grid: of the picture, in codes; None takes that of the maps.

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
    tokens, rows = {}, []
    for part, own_files in zip(maps, files, strict=True):
        tokens[part], grid, row = _of_files(part, own_files, grid, device)
        rows.append(row)
    for part in parts:
        if part not in tokens:
            is_label = isinstance(part, LabelCondition)
            own = token if is_label or not several else None
            tokens[part] = _without_files(part, own, grid, device)
    if len({len(images) for _, images in rows} - {1}) > 1:
        numbers = ", ".join(f"{len(images)} of {kind}" for kind, images in rows)
        raise ValueError(f"--condition must have as many maps of each kind, or one, got {numbers}")
    ordered = tuple(tokens[part] for part in parts)
    grid = grid if stage.num_grids else None
    return Given(ordered if several else ordered[0], grid, tuple(rows))


def held_out_condition(run: Path, model: LatentTransformer) -> Given:
    """The conditions of the held-out crops of a run, with the crops' own pictures.

    Raises:
        ConfigError, ValueError: the run has no configuration, or no held-out pictures.
    """
    from ..data import to_model_range

    crops, tokens, size = held_out_of(run, model)
    names = [type(kind).__name__ for kind in crops.kinds]
    drawn = crops.drawn(len(crops.images))
    rows = [(name, to_model_range(maps)) for name, maps in zip(names, drawn, strict=True)]
    side = size // model.first_stage_model.downsampling_factor
    grid = (side, side) if model.cond_stage_model.num_grids else None
    return Given(tokens, grid, (*rows, ("picture", to_model_range(crops.images))))


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
    if token is not None and "label" not in names and (maps or len(names) > 1):
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


def _of_files(
    stage: CodesCondition, files: Sequence[Path], grid: Grid | None, device: object
) -> tuple[Tensor, Grid, tuple[str, Tensor]]:
    """Tokens (N, h, w) of N maps, their grid (h, w), and the maps as a row of pictures."""
    import torch

    from ..data import to_model_range

    kind, maps, grid = read_maps(stage, files, grid)
    x = kind.to_model(
        torch.stack([torch.from_numpy(m.copy()).movedim(-1, 0) for m in maps]), device
    )
    row = (stage.maps["kind"], to_model_range(kind.draw(x)))
    return stage(len(maps), device, x), grid, row


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
    if not text.lstrip("-").isdecimal():
        known = f"; the classes are {', '.join(classes[:5])} ..." if classes else ""
        raise ValueError(f"--cond must be a token or the name of a class, got {text}{known}")
    number, n_classes = int(text), getattr(stage, "n_classes", None)
    if n_classes is not None and not 0 <= number < n_classes:
        raise ValueError(f"--cond must be a class in [0, {n_classes}), got {number}")
    return number


def _taken(rows: Tensor, numbers: Sequence[int]) -> Tensor:
    return rows[[number % len(rows) for number in numbers]]
