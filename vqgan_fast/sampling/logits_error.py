"""Logits that nothing can be drawn from."""

from __future__ import annotations


class LogitsError(RuntimeError):
    """A transformer of finite weights gives NaN, +inf, or nothing but -inf."""

    def __init__(self, image: int, row: int, column: int) -> None:
        super().__init__(
            f"the transformer's logits for cell ({row}, {column}) of image {image} hold NaN or "
            f"+inf, or no finite value: its weights are finite but so large that fp32 overflows; "
            f"go back to an earlier checkpoint"
        )
