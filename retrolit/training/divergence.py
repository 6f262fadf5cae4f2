"""Stops a run whose loss is lost, before it spoils its checkpoints."""

from __future__ import annotations

import math
from collections import deque


class Divergence:
    """Watches the loss of every step.

    Args:
        max_rise: How far (in nats) the mean loss of the last `window` steps may lie above the lowest such mean so far.
        window: Steps of that mean.
    """

    def __init__(self, max_rise: float, window: int = 20) -> None:
        self.max_rise = max_rise
        self.recent: deque[float] = deque(maxlen=window)
        self.lowest = math.inf

    def verdict(self, loss: float) -> str | None:
        """What is wrong with the run after a step with this loss; None when nothing is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self.recent.append(loss)
        if len(self.recent) < (self.recent.maxlen or 0):
            return None
        mean = sum(self.recent) / len(self.recent)
        self.lowest = min(self.lowest, mean)
        if mean > self.lowest + self.max_rise:
            return f"the loss has risen from {self.lowest:.2f} to {mean:.2f} (means of {len(self.recent)} steps)"
        return None
