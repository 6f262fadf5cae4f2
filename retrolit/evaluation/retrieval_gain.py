"""What retrieval is worth: the losses of a split with the neighbors retrieved, with others, and with none.

retrieval gain  bits a byte that retrieved neighbors save over none at all (gate 0)
random          what neighbors of random chunks cost in their place; where that is nothing, the model has not
                learned to read its neighbors, whatever its loss
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from retrolit.data.batch import Batch
from retrolit.evaluation.loss_totals import LossTotals, Reduce
from retrolit.models import Loss

NOISE = 2.0
"""Standard errors within which a difference counts as none."""


class PairedDifference:
    """The mean difference of two losses over the same tokens, and how sure it is.

    Tokens of one sample depend on each other, so the samples are what is counted: with a difference d_i over n_i tokens
    of sample i, the mean is D = sum d / sum n, and its standard error sqrt(sum (d_i - D n_i)^2) / sum n.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64)
        """Of d, n, d^2, d n, n^2."""

    def add(self, first: Tensor, second: Tensor, mask: Tensor) -> None:
        """Token losses (B, T) of both, and which of them count."""
        d = ((first - second) * mask).sum(dim=1).double()  # (B,)
        n = mask.sum(dim=1).double()  # (B,)
        self.sums += torch.stack([d.sum(), n.sum(), (d * d).sum(), (d * n).sum(), (n * n).sum()]).cpu()

    def result(self, reduce: Reduce) -> tuple[float, float]:
        """Mean difference and its standard error, over all devices; in nats a token."""
        d, n, dd, dn, nn = reduce(self.sums).tolist()
        mean = d / n
        return mean, math.sqrt(max(0.0, dd - 2 * mean * dn + mean * mean * nn)) / n


class RetrievalTotals:
    """Adds up the losses of one pass over a split, each batch read with every kind of neighbors."""

    def __init__(self) -> None:
        self.retrieved, self.none, self.random = LossTotals(), LossTotals(), LossTotals()
        self.cost_of_random = PairedDifference()

    def read(
        self, loss: Callable[[Batch], Loss], batch: Batch, random_tokens: Tensor, random_mask: Tensor
    ) -> dict[str, Tensor]:
        """Have the `loss` read a batch with every kind of neighbors, its own being those retrieved, and add it; the
        token losses (B, T) come back, by kind."""
        losses = {
            "retrieved": loss(batch).tokens,
            "none": loss(replace(batch, neighbor_tokens=None, neighbor_mask=None)).tokens,
            "random": loss(replace(batch, neighbor_tokens=random_tokens, neighbor_mask=random_mask)).tokens,
        }
        self.add(**losses, mask=batch.loss_mask)
        return losses

    def add(self, retrieved: Tensor, none: Tensor, random: Tensor, mask: Tensor) -> None:
        """Token losses (B, T) with each kind, and which of them count."""
        for totals, losses in ((self.retrieved, retrieved), (self.none, none), (self.random, random)):
            totals.add(losses, mask)
        self.cost_of_random.add(random, retrieved, mask)

    def result(self, reduce: Reduce, bytes_per_token: float, say: Callable[[str], None]) -> dict[str, float]:
        """loss, perplexity and bits_per_byte with retrieved neighbors, bits_per_byte_none and _random, and the
        retrieval_gain: none - retrieved. Has it said where retrieval is not being used."""
        result = self.retrieved.result(reduce, bytes_per_token)
        for name, totals in (("none", self.none), ("random", self.random)):
            result[f"bits_per_byte_{name}"] = totals.result(reduce, bytes_per_token)["bits_per_byte"]
        result["retrieval_gain"] = result["bits_per_byte_none"] - result["bits_per_byte"]
        if not self.is_used(reduce):
            say(
                "RETRIEVAL IS NOT BEING USED: neighbors of random chunks are as good as those retrieved, "
                f"{result['bits_per_byte_random']:.4f} and {result['bits_per_byte']:.4f} bits per byte"
            )
        return result

    def is_used(self, reduce: Reduce) -> bool:
        """Whether random neighbors cost more than noise can explain."""
        cost, error = self.cost_of_random.result(reduce)
        return cost > NOISE * error
