"""Models of 16 columns gain nothing from threads, and lose a lot on a busy machine."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread: None) -> None:
    """Here all models are that small."""
