"""Files that commands write: whole or not at all, and over an existing one only with --force."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace output files that exist")


def refuse_existing(paths: Iterable[Path], force: bool) -> None:
    """Raises a FileExistsError that names the files, before any work is done."""
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise FileExistsError(
            f"{', '.join(there[:3])}{more} exist already; give another --output, or --force to "
            f"replace them"
        )
