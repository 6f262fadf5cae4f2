"""Shared n-grams, against sets."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.retrieval.near_duplicates import shared_ngrams


@pytest.mark.parametrize("ngram", [1, 3, 8])
def test_the_share_is_that_of_sets(ngram: int) -> None:
    generator = np.random.default_rng(ngram)
    tokens, other = generator.integers(0, 3, (50, 20)), generator.integers(0, 3, (50, 30))
    lengths, other_lengths = generator.integers(0, 21, 50), generator.integers(0, 31, 50)
    shares = shared_ngrams(
        tokens,
        np.arange(20) < lengths[:, None],
        other,
        np.arange(30) < other_lengths[:, None],
        ngram,
    )
    for row in range(50):
        mine = [tuple(tokens[row, i : i + ngram]) for i in range(lengths[row] - ngram + 1)]
        theirs = {tuple(other[row, i : i + ngram]) for i in range(other_lengths[row] - ngram + 1)}
        expected = sum(gram in theirs for gram in mine) / len(mine) if mine else 0
        assert shares[row] == pytest.approx(expected)


def test_texts_shorter_than_an_ngram_share_nothing() -> None:
    tokens, mask = np.ones((2, 3), np.int64), np.ones((2, 3), bool)
    assert shared_ngrams(tokens, mask, tokens, mask, 4).tolist() == [0, 0]
    assert shared_ngrams(tokens, mask, tokens, mask, 3).tolist() == [1, 1]
