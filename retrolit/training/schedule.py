"""The learning rate over a run: up, down, and at the end a floor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["steps", "samples", "tokens"]


@dataclass
class ScheduleConfig:
    """Linear warmup to the peak, then down to `min_lr`, where it stays."""

    type: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls after the warmup; constant stays at the peak."""

    unit: Unit = "steps"
    """What `warmup` and `length` count: optimizer steps, samples or tokens."""

    warmup: int = 0
    """How long it rises."""

    length: int | None = None
    """When `min_lr` is reached, counted from the start of the run; at the last step of the run when not given."""

    min_lr: float = 0.0
    """The floor."""

    def __post_init__(self) -> None:
        if self.type not in ("cosine", "linear", "constant"):
            raise ValueError(f"schedule.type: expected cosine, linear or constant; got {self.type!r}")
        if self.unit not in ("steps", "samples", "tokens"):
            raise ValueError(f"schedule.unit: expected steps, samples or tokens; got {self.unit!r}")
        if self.warmup < 0 or self.min_lr < 0:
            raise ValueError(f"schedule: expected warmup and min_lr of at least 0, got {self.warmup} and {self.min_lr}")
        if self.length is not None and self.length < self.warmup:
            raise ValueError(f"schedule.length: expected at least warmup ({self.warmup}), got {self.length}")


def learning_rate(schedule: ScheduleConfig, peak: float, consumed: int, length: int) -> float:
    """The rate of the step after which `consumed` units are done, in a run whose floor is reached at `length`.

    Counting the step itself lets the first one learn, and lets the last one reach the floor exactly.
    """
    if consumed < schedule.warmup:
        return peak * consumed / schedule.warmup
    if schedule.type == "constant":
        return peak
    share = min(1.0, (consumed - schedule.warmup) / max(1, length - schedule.warmup))
    height = (1 + math.cos(math.pi * share)) / 2 if schedule.type == "cosine" else 1 - share
    return schedule.min_lr + (peak - schedule.min_lr) * height
