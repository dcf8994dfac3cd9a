"""What a run that was interrupted leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .best import Best


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C came while sampling; what had been drawn by then is here.

    `sample_codes(..., known=interrupted.codes, seeds=the same)` goes on from there to the codes
    that the whole run would have given.

    Attributes:
        codes: (B, H, W) int64, -1 at the cells that were not drawn yet.
        logprobs: (B, H, W) float32, 0 at those cells; None where `sample` was interrupted while
            decoding and was not asked for them.
        done, total: how many codes were drawn, and how many were asked for.
        images: (B, 3, f H, f W), decoded, grey where nothing was drawn and where `sample` had not
            decoded yet; None from `sample_codes`, and before the first one was decoded.
        best: from `sample_best`, of the condition that it was at, the best of the candidates that
            were complete, (1, at most `keep`, ...) of them; else None. All else tells of the batch
            of candidates that was being drawn.
        finished: from `sample_best`, what it would have returned for the conditions before that
            one; None where there are none.
    """

    def __init__(self, codes: Tensor, logprobs: Tensor | None, done: int, total: int) -> None:
        super().__init__(f"interrupted after {done} of {total} codes")
        self.codes = codes
        self.logprobs = logprobs
        self.done = done
        self.total = total
        self.images: Tensor | None = None
        self.best: Best | None = None
        self.finished: Best | None = None
