"""The conditions that `vqgan-fast sample` draws pictures of."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..data import CropMap
    from ..models import CodesCondition, LatentTransformer
    from ..models.conditions import Tokens

Grid = tuple[int, int]


class Given(NamedTuple):
    """The `tokens` of N conditions, the `grid` of codes that they lie on (None: they lie on none),
    and `rows` of pictures for a page, (name, (N, 3, height, width) in [-1, 1])."""

    tokens: Tokens
    grid: Grid | None = None
    rows: tuple[tuple[str, Tensor], ...] = ()

    def of(self, numbers: range) -> Tokens:
        """The tokens of these pictures; conditions come again where there are more pictures."""
        return self._taken(self.tokens, numbers)

    def rows_of(self, numbers: range) -> list[tuple[str, Tensor]]:
        """The rows of these pictures."""
        return [(name, self._taken(images, numbers)) for name, images in self.rows]

    def _taken(self, tokens: Tokens, numbers: range) -> Tokens:
        from ..models.conditions import map_tokens

        count = len(self.tokens[0] if isinstance(self.tokens, tuple) else self.tokens)
        return map_tokens(itemgetter([number % count for number in numbers]), tokens)


def own_condition(model: LatentTransformer, token: str | None, grid: Grid | None) -> Given:
    """What needs no files: a class, by name or number, coordinates, or no condition.

    Raises:
        ValueError: the model wants something else, or the class is none of its classes.
    """
    import torch

    from ..models import CoordinateCondition
    from ..sampling import coordinate_tokens

    stage, device = model.cond_stage_model, model.transformer.head.weight.device
    if token is not None:
        return Given(torch.tensor([[_class_number(stage, token)]], device=device))
    if isinstance(stage, CoordinateCondition):
        if grid is None:
            raise ValueError("--grid or --size must be given: coordinates are those of the grid")
        tokens = coordinate_tokens(grid, stage.n_tokens, stage.factor)
        return Given(tokens.clamp_max(stage.n_tokens - 1).to(device), grid)
    if stage.config["name"] == "label":
        raise ValueError("--cond must be given, the class to draw: a number, or a class's name")
    if stage.config["name"] != "sos":
        raise ValueError("--condition FILE or --held-out must be given: the model wants maps")
    return Given(stage(1, device))


def condition_of_files(model: LatentTransformer, files: Sequence[Path], grid: Grid | None) -> Given:
    """The maps of files: labels or depth themselves, the poses of a JSON file; of edges the picture
    whose edges they are, of low_resolution the small picture.

    Args:
        grid: that the maps must have, in codes; None takes theirs.

    Raises:
        FileNotFoundError, ValueError: no file, not of that kind, or of another size than the grid;
            the file is named.
    """
    import torch

    from ..data import to_model_range
    from ..models import CodesCondition

    stage = model.cond_stage_model
    if not isinstance(stage, CodesCondition):
        raise ValueError(
            f"--condition is for models conditioned on one kind of map, this one is on "
            f"{stage.config['name']}; for several use --held-out"
        )
    device, factor = model.transformer.head.weight.device, stage.vqgan.downsampling_factor
    kind, pictures = _open(stage, files)
    maps = []
    for name, whole in pictures:
        height, width = whole.shape[:2]
        size = (height // factor, width // factor)
        grid = size if grid is None else grid
        expected = (factor * grid[0], factor * grid[1])
        if (height, width) != expected:
            raise ValueError(
                f"{name} gives a condition of {width} x {height} pixels, expected {expected[1]} x "
                f"{expected[0]}: {factor} x {factor} pixels for each of {grid[0]} x {grid[1]} codes"
            )
        maps.append(torch.from_numpy(whole.copy()).movedim(-1, 0))
    x = kind.to_model(torch.stack(maps), device)
    row = (stage.maps["kind"], to_model_range(kind.draw(x)))
    return Given(stage(len(maps), device, x), grid, (row,))


def held_out_condition(run: Path, model: LatentTransformer) -> Given:
    """The conditions of the held-out crops of a run, with the crops' own pictures.

    Raises:
        ConfigError, ValueError: the run has no configuration, or no held-out pictures.
    """
    from ..data import to_model_range
    from ..train.conditioning import Conditioning
    from ..train.load_config import load_config

    config = load_config(run / "config.yaml")
    if config.data.validation is None:
        raise ValueError(f"{run / 'config.yaml'} names no held-out pictures (data.validation)")
    conditioning = Conditioning(config, model.first_stage_model, model.cond_stage_model)
    crops = conditioning.held_out()
    device, count = model.transformer.head.weight.device, len(crops.images)
    tokens = conditioning.tokens(crops.kinds, crops.maps, count, device)
    names = [type(kind).__name__ for kind in crops.kinds]
    rows = [
        (name, to_model_range(drawn)) for name, drawn in zip(names, crops.drawn(count), strict=True)
    ]
    side = config.data.size // model.first_stage_model.downsampling_factor
    grid = (side, side) if model.cond_stage_model.num_grids else None
    return Given(tokens, grid, (*rows, ("picture", to_model_range(crops.images))))


def _open(
    stage: CodesCondition, files: Sequence[Path]
) -> tuple[CropMap, list[tuple[str, np.ndarray]]]:
    """The kind of map, and of each file its name and map (height, width, C)."""
    import numpy as np

    from ..data import Keypoints, read_image
    from ..data.crops import Box
    from ..data.keypoints import read_keypoints
    from ..data.stream import View
    from ..train.config import MapConfig
    from ..train.training_crops import make_map

    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    options = MapConfig(**stage.maps)
    if options.kind == "keypoints":
        if len(files) > 1:
            raise ValueError(f"--condition takes one file of keypoints, got {len(files)}")
        sizes = read_keypoints(files[0])[0]
        kind = Keypoints([Path(name) for name in sizes], files[0])
        shown = [np.empty((h, w, 3), np.uint8) for w, h in sizes.values()]
        names = [f"{files[0]} ({name})" for name in sizes]
    else:
        kind = make_map(options, files)
        names = [str(file) for file in files]
        if options.kind == "low_resolution":
            pictures = [read_image(file) for file in files]
            return kind, [
                (name, np.asarray(kind.enlarged(small)))
                for name, small in zip(names, pictures, strict=True)
            ]
        if options.kind == "edges":
            shown = [np.asarray(read_image(file)) for file in files]
        else:
            shown = [np.empty((*kind.read(file).size[::-1], 3), np.uint8) for file in files]
    whole = [View(Box(0, 0, p.shape[1], p.shape[0]), mirrored=False) for p in shown]
    return kind, [
        (name, kind.crop(index, picture, whole[index]))
        for index, (name, picture) in enumerate(zip(names, shown, strict=True))
    ]


def _class_number(stage: object, text: str) -> int:
    classes = getattr(stage, "classes", None) or []
    if text in classes:
        return classes.index(text)
    if not text.lstrip("-").isdecimal():
        known = f"; the classes are {', '.join(classes[:5])} ..." if classes else ""
        raise ValueError(f"--cond must be a token or the name of a class, got {text}{known}")
    return int(text)
