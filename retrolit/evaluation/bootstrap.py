"""How sure a number is: it is computed again for splits of documents drawn from the split, with replacement.

Tokens of one document depend on each other, documents do not, so documents are what is drawn. All numbers of a split
are computed for the same drawn splits. What differs between two models is therefore told apart from what makes a
document hard for both: the interval of a difference is much narrower than those of its two sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
BLOCK_DRAWS = 4_000_000  # documents drawn at a time


def resampled_sums(sums: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums over the documents of each drawn split: from what each document adds (D, C) to (num_resamples, C)."""
    documents = len(sums)
    generator = np.random.default_rng(seed)
    resampled = np.empty((num_resamples, sums.shape[1]))
    rows = max(1, BLOCK_DRAWS // documents)
    for start in range(0, num_resamples, rows):
        num = min(rows, num_resamples - start)
        drawn = generator.integers(documents, size=(num, documents)) + documents * np.arange(num)[:, None]
        times = np.bincount(drawn.ravel(), minlength=num * documents).reshape(num, documents)
        resampled[start : start + num] = times @ sums
    return resampled


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Where the middle 95 % of the values lie. Values that are no numbers, from drawn splits that had none of what is
    measured, are left out; None where they are more than one in twenty."""
    there = values[np.isfinite(values)]
    if not len(there) or len(there) < CONFIDENCE * len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(there, [tail, 1 - tail])
    return float(low), float(high)
