"""The mean loss over a split, exact over batches and devices of unequal size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrolit.evaluation.measures import bits_per_byte, perplexity

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all devices; `alone` where there is one."""


def alone(sums: Tensor) -> Tensor:
    """The sums of one device are those of all."""
    return sums


class LossTotals:
    """Sums token losses and counts tokens; the mean is taken once, at the end."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.tokens = 0.0

    def add(self, losses: Tensor, mask: Tensor) -> None:
        """Token losses (B, T) in nats, and which of them count."""
        loss, tokens = torch.stack([(losses * mask).sum(), mask.sum()]).tolist()
        self.loss += loss
        self.tokens += tokens

    def result(self, reduce: Reduce, bytes_per_token: float) -> dict[str, float]:
        """loss (nats a token), perplexity and bits_per_byte over all devices."""
        loss, tokens = reduce(torch.tensor([self.loss, self.tokens], dtype=torch.float64)).tolist()
        return {
            "loss": loss / tokens,
            "perplexity": perplexity(loss, tokens),
            "bits_per_byte": bits_per_byte(loss, tokens * bytes_per_token),
        }
