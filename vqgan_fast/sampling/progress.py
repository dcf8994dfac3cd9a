"""A bar with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Yields what is called with the number of codes drawn since the last call."""
    if not show:
        yield lambda _: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or leave it out") from error
    with tqdm(total=total, unit="code", desc="sampling") as bar:
        yield bar.update
