"""Blends: the right shares in every prefix, every sample of a store in turn, without tables."""

from __future__ import annotations

import itertools
import math

import pytest

from retrolit.tokens import Blend


@pytest.mark.parametrize("weights", [[1], [3, 1], [0.5, 0.25, 0.25], [1, 2, 3, 4, 5], [1e-6, 1]])
def test_every_prefix_has_the_right_shares_and_counts_up(weights: list[float]) -> None:
    blend = Blend(weights, seed=3)
    counts = [0] * len(weights)
    forks = math.ceil(math.log2(len(weights)))
    for n in range(2000):
        assert blend.counts(n) == counts
        store, sample = blend[n]
        assert sample == counts[store], "the samples of a store come in turn, none twice, none left out"
        counts[store] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (n + 1) * weight / sum(weights)) <= forks + 1e-6


def test_the_seed_decides_and_nothing_else() -> None:
    def first(seed: int) -> list[tuple[int, int]]:
        blend = Blend([5, 3, 2], seed)
        return [blend[n] for n in range(200)]

    assert first(1) == first(1)
    assert len({tuple(first(seed)) for seed in range(10)}) > 3
    assert [Blend([5, 3, 2], 1)[n] for n in reversed(range(200))] == first(1)[::-1]
    assert [Blend([0.5, 0.3, 0.2], 1)[n] for n in range(200)] == first(1)


def test_exact_far_beyond_double_precision() -> None:
    blend = Blend([math.pi, math.e, 1])
    start = 10**18
    counts = blend.counts(start)
    assert sum(counts) == start
    for n in itertools.islice(itertools.count(start), 100):
        store, sample = blend[n]
        assert sample == counts[store]
        counts[store] += 1
    assert counts == blend.counts(start + 100)


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [float("nan")]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Blend\.weights: expected one or more numbers above 0"):
        Blend(weights)
