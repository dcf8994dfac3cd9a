"""Errors of files say which file it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming(file: str | os.PathLike[str], what: str = "written") -> Iterator[None]:
    """Around the work on one file: names it in an error of the system that names none.

    What open() says has the name; what write() says, on a full disk, has not.

    Args:
        what: of the message: FILE cannot be `what`.

    Raises:
        OSError: in the place of one without a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(f"{file} cannot be {what}: {error.strerror}") from error
