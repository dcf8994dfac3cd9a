"""Files that commands write: whole or not at all, and over an existing one only with --force."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace output files that exist")


def refuse_existing(
    paths: Iterable[Path],
    force: bool,
    option: str = "--output",
    instead: str = "",
    within: Path | None = None,
) -> None:
    """Raises an OSError before any work is done, where files exist or their folder takes none.

    Args:
        paths: the files to be written.
        force: existing ones are replaced.
        option: what the user named them with.
        instead: what else the message advises.
        within: the folder that is to take them, if not the one that each lies in.
    """
    paths = list(paths)
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        exist, them = ("exists", "it") if len(there) == 1 else ("exist", "them")
        raise FileExistsError(
            f"{', '.join(there[:3])}{more} {exist} already; give another {option}, {instead}or "
            f"--force to replace {them}"
        )
    for folder in {within or path.parent: None for path in paths}:
        check_writable(folder, option)


def check_writable(folder: Path, option: str = "--output") -> None:
    """Raises an OSError that names the option, where the folder takes no file or cannot be made."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        # Tried, not asked for: root may write everywhere, but for read-only disks and /proc.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = "it is no folder" if there.is_file() else error.strerror or error
        raise type(error)(f"{option}: nothing can be written into {there} ({reason})") from error
