"""What a training run needs before it is started: memory of each card, cards, time."""

from .estimate import CardMemory, duration, largest_batch, on_a_card
from .load import FirstStages, load_plan
from .rehearsal import Rehearsal, Setting, StepMemory

__all__ = [
    "CardMemory",
    "FirstStages",
    "Rehearsal",
    "Setting",
    "StepMemory",
    "duration",
    "largest_batch",
    "load_plan",
    "on_a_card",
]
