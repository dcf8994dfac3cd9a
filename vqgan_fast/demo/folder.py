"""Making room for a demo's results without losing earlier ones."""

from __future__ import annotations

from pathlib import Path

LIST_FILE = "photographs.txt"  # written first of all: its presence marks a folder as a demo's


def make_room(output: Path) -> Path | None:
    """An empty folder `output`; an earlier demo there is moved aside to output.1, output.2, ...

    Returns:
        Where the earlier demo went, None if there was none.

    Raises:
        FileExistsError: `output` holds something that no demo wrote.
    """
    moved = None
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not (output / LIST_FILE).is_file():
            raise FileExistsError(
                f"{output} exists and is no demo's folder; give another --output, such as "
                f"--output {_first_free(output)}"
            )
        moved = _first_free(output)
        output.rename(moved)
    output.mkdir(parents=True, exist_ok=True)
    return moved


def _first_free(output: Path) -> Path:
    number = 1
    while (aside := output.with_name(f"{output.name}.{number}")).exists():
        number += 1
    return aside
