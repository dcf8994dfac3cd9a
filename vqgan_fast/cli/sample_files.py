"""The files of `vqgan-fast sample`: pictures, and sheets that show several of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .outputs import check_writable, refuse_existing

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampling import SamplingInterrupted

STARTS = ("seed_", "best_")  # of the names of pictures
GRID, PAGE = "grid.png", "page.png"
SHOWN = 64  # on a sheet; more of them would fill the memory, and nobody looks at them
# Stands in a picture of which some cells are not drawn yet.
UNFINISHED = ("vqgan_fast", "unfinished")


class SampleFiles:
    """What one call writes: `pictures`, one file for each, and the sheets beside them.

    The sheets sum up one call, so that the next one may replace them: pictures of further seeds go
    into the same folder.

    Args:
        number: of pictures.
        first_seed: of pictures by their seeds; None for the best of many.
        with_conditions: a page is written.
    """

    def __init__(
        self, folder: Path, number: int, first_seed: int | None, with_conditions: bool
    ) -> None:
        self.folder = folder
        self.by_seed = first_seed is not None
        if first_seed is None:
            names = [f"best_{rank:03d}.png" for rank in range(1, number + 1)]
        else:
            names = [f"seed_{first_seed + i:06d}.png" for i in range(number)]
        self.pictures = [folder / name for name in names]
        self.grid = folder / GRID if number > 1 else None
        self.page = folder / PAGE if with_conditions else None

    def refuse_existing(self, force: bool) -> None:
        """An OSError before any work, where files are in the way or the folder takes none."""
        instead = "another --seed, --skip-existing to draw the others, " if self.by_seed else ""
        refuse_existing(self.pictures, force, instead=instead)
        self._spare_sheets(force)

    def missing(self) -> list[int]:
        """The numbers of the pictures that are not there to their end; errors as above."""
        check_writable(self.folder)
        self._spare_sheets(force=False)
        files = enumerate(self.pictures)
        return [number for number, file in files if not file.exists() or is_unfinished(file)]

    def _spare_sheets(self, force: bool) -> None:
        """Where no picture of ours lies, a sheet is not ours either."""
        if not self._drawn():
            refuse_existing([sheet for sheet in (self.grid, self.page) if sheet], force)

    def _drawn(self) -> set[Path]:
        return {file for start in STARTS for file in self.folder.glob(f"{start}*.png")}

    def write_sheets(self, rows: Sequence[tuple[str, Tensor]]) -> None:
        """Rows of pictures as `comparison` takes them; the last are the samples."""
        from ..data.naming import naming
        from ..report.pictures import comparison, picture_grid, write_picture

        if self.page is not None:
            with naming(self.page):
                write_picture(comparison(rows), self.page)
        if self.grid is not None:
            with naming(self.grid):
                write_picture(picture_grid(rows[-1][1]), self.grid)

    def more(self, drawn: int) -> str:
        """What else there is to say of the folder, after so many pictures were drawn."""
        there = len(self.pictures) - drawn
        others = len(self._drawn().difference(self.pictures))
        told = f"; {there} were there" if there else ""
        told += f"; the sheets show the first {SHOWN}" if drawn > SHOWN else ""
        return told + (f"; {others} of other calls lie there, too" if others else "")


def check_memory(grid: tuple[int, int], factor: int, pictures: int) -> None:
    """ValueError where pictures alone, without all that draws them, are more than the memory.

    Args:
        grid: (H, W) of each, in codes.
        factor: side of a code, in pixels.
        pictures: how many are held at once, as float32.
    """
    height, width = (factor * side for side in grid)
    needed = 12 * pictures * height * width
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(
            f"{pictures} x {height} x {width} pixels take {needed / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f} GB: give a smaller --grid or --size, or a smaller --batch"
        )


def write_pictures(images: Tensor, files: Sequence[Path], unfinished: bool = False) -> None:
    """Writes each image (3, H, W) in [-1, 1] into its file, marked where it is unfinished."""
    from PIL.PngImagePlugin import PngInfo

    from ..data.naming import naming
    from ..report.pictures import to_picture, write_picture

    notes = PngInfo()
    if unfinished:
        notes.add_text(*UNFINISHED)
    for image, file in zip(images, files, strict=True):
        with naming(file):
            write_picture(to_picture(image), file, notes)


def write_partial(interrupted: SamplingInterrupted, files: Sequence[Path]) -> None:
    """Writes the pictures that were being drawn, as many as there are files for."""
    if interrupted.images is None or not files:
        return
    files = files[: len(interrupted.images)]
    write_pictures(interrupted.images[: len(files)], files, unfinished=True)
    print(
        f"\n{interrupted.done} of {interrupted.total} codes are drawn; the pictures as far as they "
        f"came: {', '.join(str(file) for file in files[:3])}{' ...' if len(files) > 3 else ''}",
        file=sys.stderr,
    )


def is_unfinished(path: Path) -> bool:
    """Whether it is a picture that a call left, or was killed at, before its end."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.info.get(UNFINISHED[0]) == UNFINISHED[1]
    except OSError:
        return False


def drawn_pictures(path: Path) -> list[Path]:
    """As `list_images`, without what `sample` writes beside samples: sheets, unfinished ones."""
    from ..data import list_images

    files = list_images(path)
    drawn = {file for file in files if file.name.startswith(STARTS) and file.suffix == ".png"}
    folders = {file.parent for file in drawn}
    sheets = {folder / name for folder in folders for name in (GRID, PAGE)}
    left_out = sheets | {file for file in drawn if is_unfinished(file)}
    return [file for file in files if file not in left_out]
