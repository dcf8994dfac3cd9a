"""From logits to a code: how the draw is set, and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor

from .. import ops
from ..ops.decode_checks import check_draw, check_guidance

Guidance = float | Callable[[float], float]


@dataclass(frozen=True)
class DrawRule:
    """How a code is drawn from its logits: the options of :func:`vqgan_fast.ops.sample_logits`.

    Attributes:
        temperature: divides the logits, finite and >= 0; 0 is greedy.
        top_k: keep the k likeliest codes, >= 1; None keeps all.
        top_p: of the codes that top-k keeps, keep the fewest likeliest ones that together hold at
            least this share of their probability, in (0, 1]; None keeps all.
        min_p: keep the codes that are at least this likely, as a share of the likeliest one's
            probability, in (0, 1]; None keeps all.
        greedy: take the likeliest code and draw nothing.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        check_draw(self.temperature, self.top_k, self.top_p, self.min_p)

    def check_vocabulary(self, num_codes: int) -> None:
        """Raise a ValueError if top-k asks for more codes than there are."""
        if self.top_k is not None and self.top_k > num_codes:
            raise ValueError(f"top_k must be at most the {num_codes} codes, got {self.top_k}")

    def draw(
        self,
        logits: Tensor,
        seeds: Tensor,
        cells: Tensor,
        uncond_logits: Tensor | None = None,
        guidance: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Draw one code for each row: codes and log-probabilities, as `ops.sample_logits`."""
        return ops.sample_logits(
            logits, seeds, cells, **asdict(self), uncond_logits=uncond_logits, guidance=guidance
        )


def is_guided(guidance: Guidance) -> bool:
    """Whether guidance may be another than 1; ValueError for no function and no finite number."""
    if callable(guidance):
        return True
    check_guidance(guidance)
    return guidance != 1


def guidance_of_cells(guidance: Guidance, num_cells: int) -> list[float]:
    """The guidance of each cell of a grid, in raster order.

    A schedule is a function of the cell's place and not of the clock, so that the order in which
    cells are drawn does not enter.

    Args:
        guidance: a number, or a function of the share of the cells that come before in raster
            order, in [0, 1).

    Raises:
        ValueError: a value is not finite.
    """
    schedule = guidance if callable(guidance) else lambda _: guidance
    values = [schedule(cell / num_cells) for cell in range(num_cells)]
    for value in values:
        check_guidance(value)
    return [float(value) for value in values]
