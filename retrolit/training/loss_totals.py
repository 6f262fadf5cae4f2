"""The mean loss over a split, exact over batches and devices of unequal size."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor


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

    def result(self, strategy: Strategy, bytes_per_token: float) -> dict[str, float]:
        """loss (nats a token), perplexity and bits_per_byte over all devices."""
        sums = torch.tensor([self.loss, self.tokens], dtype=torch.float64, device=strategy.root_device)
        loss, tokens = strategy.reduce(sums, reduce_op="sum").tolist()
        mean = loss / tokens
        return {
            "loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
            "bits_per_byte": mean / math.log(2) / bytes_per_token,
        }
