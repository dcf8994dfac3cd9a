"""The photographs to learn from: those inside scikit-image's wheel, or a folder of the user's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..data import list_images
from ..models.pretrained import replacing

# The colour photographs that the wheel itself holds; others would be downloaded at first use.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
)
FEWEST = 4  # of the above: below that something is wrong with the installation
MOST = 1000  # pictures of the user's: minutes of training see no more, and all are kept in memory


def choose_pictures(data: Path | None) -> list[Path]:
    """The pictures of a folder or list, at most MOST of them, evenly chosen; None: photographs().

    Raises:
        ValueError, FileNotFoundError: there are none.
    """
    if data is None:
        return photographs()
    files = list_images(data)
    if len(files) <= MOST:
        return files
    return [files[index * len(files) // MOST] for index in range(MOST)]


def photographs() -> list[Path]:
    """The files of scikit-image's colour photographs.

    Raises:
        FileNotFoundError: scikit-image is not installed, or its wheel holds other files.
    """
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            "the demo learns from the photographs of scikit-image, which is not installed: "
            "pip install 'vqgan_fast[demo]', or give --data FOLDER with pictures of your own"
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    files = [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]
    if len(files) < FEWEST:
        raise FileNotFoundError(
            f"{folder} holds {len(files)} of the {len(PHOTOGRAPHS)} photographs expected "
            f"({', '.join(PHOTOGRAPHS)}); give --data FOLDER with pictures of your own"
        )
    return files


def write_list(files: list[Path], path: Path) -> None:
    """A list file that `data.train` reads: one path on each line."""
    with replacing(path) as temporary:
        lines = "".join(f"{file.resolve()}\n" for file in files)
        temporary.write_text(lines, encoding="utf-8")
