"""`python -m vqgan_fast ...` is `vqgan-fast ...`; torchrun starts it this way."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
