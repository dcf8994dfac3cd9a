"""From the memory of one process to cards and machines: what fits, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .assumed import RESERVE_GIB
from .rehearsal import Setting, StepMemory

GIB = 2**30
CARDS_GIB = (16, 24, 32, 40, 48, 80, 96, 141)


@dataclass(frozen=True)
class CardMemory:
    """Bytes on one card: the parts of `StepMemory` as they lie there, and what comes on top."""

    weights: int
    fixed: int
    average: int
    optimizer: int
    gradients: int
    exchange: int  # of gradients or weights between cards
    working: int
    reserve: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def on_a_card(
    memory: StepMemory,
    gpus: int = 1,
    *,
    sharded: bool = False,
    precision: str = "fp32",
    accumulate: int = 1,
    reserve_gib: float = RESERVE_GIB,
) -> CardMemory:
    """What of a step lies on one of `gpus` cards.

    Replicated (DistributedDataParallel), a card holds everything, and the buckets in which
    gradients are exchanged, as large as the gradients. Sharded (FSDP2's fully_shard over blocks),
    it holds its part of weights, gradients, averages and moments, the whole weights of the block at
    work and of the next one, which is fetched meanwhile, and the whole gradients of one block; of
    all blocks while gradients of several batches accumulate, which are exchanged once.
    """
    reserve = round(reserve_gib * GIB)
    if not sharded or gpus == 1:
        exchange = memory.gradients if gpus > 1 else 0
        return CardMemory(
            memory.weights, memory.fixed, memory.average, memory.optimizer, memory.gradients,
            exchange, memory.working, reserve,
        )  # fmt: skip

    def part(size: int) -> int:
        return -(-size // gpus)

    width = 2 if precision == "bf16" else 4
    whole = memory.gradients if accumulate > 1 else memory.largest_block
    blocks = 2 * memory.largest_block * width // 4 + whole
    return CardMemory(
        part(memory.weights), memory.fixed, part(memory.average), part(memory.optimizer),
        part(memory.gradients), blocks, memory.activations, reserve,
    )  # fmt: skip


def largest_batch(activations: Mapping[int, int], beside: int, capacity: int) -> int:
    """The most samples on a card; activations grow by the same for each.

    Args:
        activations: bytes of activations and temporaries of two batch sizes.
        beside: bytes of everything else.
        capacity: bytes of the card.
    """
    (few, at_few), (many, at_many) = sorted(activations.items())
    each = max(1, -(-(at_many - at_few) // (many - few)))
    return max(0, few + (capacity - beside - at_few) // each)


@dataclass(frozen=True)
class Duration:
    """Seconds of a run: if the exchange hides behind the computation, and if nothing of it does."""

    steps: int
    samples: int
    best: float
    worst: float


def duration(
    setting: Setting,
    gpus: int,
    steps: int,
    accumulate: int,
    rate: float,
    gradients: int,
    link_gbytes: float,
    sharded: bool = False,
) -> Duration:
    """How long a run takes, from a rate that was measured on one card.

    A ring passes 2 (N - 1) / N of the gradients' bytes through each card's link in a step; sharded
    weights are gathered twice as well, half as much again. Both are computed as if nothing else
    used the link, and the batch of a card is taken to be the measured one.

    Args:
        rate: samples a second of one card.
        gradients: bytes.
        link_gbytes: 1e9 bytes a second that one card can send.
    """
    samples = setting.batch_size * accumulate * gpus
    compute = setting.batch_size * accumulate / rate
    passes = 3 if sharded else 2
    exchange = passes * (gpus - 1) / gpus * gradients / (link_gbytes * 1e9)
    return Duration(
        steps, steps * samples, steps * max(compute, exchange), steps * (compute + exchange)
    )
