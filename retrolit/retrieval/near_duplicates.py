"""Near duplicates: neighbors that hold much of the query, or of what the model is about to predict, word for word.

Legend: n rows, T tokens, G tokens an n-gram.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shared_ngrams(
    tokens: NDArray[np.int64],
    mask: NDArray[np.bool_],
    other: NDArray[np.int64],
    other_mask: NDArray[np.bool_],
    ngram: int,
) -> NDArray[np.float64]:
    """The share (n,) of each row's n-grams that the same row of `other` holds too; 0 for a row too short to have any.

    tokens, mask (n, T); other, other_mask (n, T'); a mask is True on a token, and tokens come before padding.
    """
    hashes, there = _ngrams(tokens, mask, ngram)
    other_hashes, other_there = _ngrams(other, other_mask, ngram)
    found = np.isin(hashes, other_hashes[other_there]) & there
    return found.sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def _ngrams(tokens: NDArray[np.int64], mask: NDArray[np.bool_], ngram: int) -> tuple[NDArray[np.uint64], NDArray]:
    """A hash of each n-gram and its row, and which of them lie before the padding: (n, T - G + 1) both."""
    width = tokens.shape[1] - ngram + 1
    if width < 1:
        return np.zeros((len(tokens), 0), np.uint64), np.zeros((len(tokens), 0), np.bool_)
    hashes = np.broadcast_to(np.arange(len(tokens), dtype=np.uint64)[:, None], (len(tokens), width))
    for step in range(ngram):
        hashes = (hashes ^ (hashes >> np.uint64(31))) * MULTIPLIER + tokens[:, step : step + width].astype(np.uint64)
    return hashes, mask[:, ngram - 1 :]
