"""A blend of several stores: which store the n-th sample comes from, and which of its samples that is.

A pure function of the seed, the weights and n, without tables: the stores are the leaves of a binary tree, and at each
fork the first n samples are divided exactly by the weights of the two sides,

    left(n) = floor(share * n + phase),

with a phase that the seed draws. So every prefix of the blend holds the right shares to within one sample a fork, and
nobody has to know how many samples there will be.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


class Blend:
    """Samples of several stores mixed by `weights`, which need not add up to one.

    Raises ValueError for weights that are not above zero, and for none at all.
    """

    def __init__(self, weights: Sequence[float], seed: int = 0) -> None:
        if not weights or not all(weight > 0 for weight in weights):
            raise ValueError(f"Blend.weights: expected one or more numbers above 0, got {list(weights)}")
        self.num_stores = len(weights)
        self._tree = _grow([(Fraction(weight), i) for i, weight in enumerate(weights)], random.Random(seed))

    def __getitem__(self, n: int) -> tuple[int, int]:
        """The store of global sample n, and the number of the sample among those of that store; both from 0."""
        node = self._tree
        while isinstance(node, _Fork):
            before = node.left(n)
            if node.left(n + 1) > before:
                n, node = before, node.first
            else:
                n, node = n - before, node.second
        return node, n

    def counts(self, n: int) -> list[int]:
        """How many of the first n samples come from each store."""
        counts = [0] * self.num_stores
        nodes: list[tuple[_Fork | int, int]] = [(self._tree, n)]
        while nodes:
            node, n = nodes.pop()
            if isinstance(node, _Fork):
                nodes += [(node.first, node.left(n)), (node.second, n - node.left(n))]
            else:
                counts[node] = n
        return counts


@dataclass(frozen=True)
class _Fork:
    """Divides samples between two sides; `share` and `phase` are in units of 2 ** -64, so that sums are exact."""

    first: _Fork | int
    second: _Fork | int
    share: int
    phase: int

    def left(self, n: int) -> int:
        return (self.share * n + self.phase) >> 64


def _grow(stores: list[tuple[Fraction, int]], chance: random.Random) -> _Fork | int:
    if len(stores) == 1:
        return stores[0][1]
    half = len(stores) // 2
    first, second = stores[:half], stores[half:]
    total = sum(weight for weight, _ in stores)
    share = int(sum(weight for weight, _ in first) * 2**64 / total)
    return _Fork(_grow(first, chance), _grow(second, chance), share, chance.getrandbits(64))
