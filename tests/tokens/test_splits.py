"""Splits and samples depend on documents alone, not on their order."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.tokens.config import SPLITS
from retrolit.tokens.sample import sample_texts
from retrolit.tokens.splits import assign_splits, split_name, text_hash

TEXTS = [f"document {i} " + "x" * (i % 50) for i in range(20_000)]


@pytest.fixture(scope="module")
def hashes() -> np.ndarray:
    return np.array([text_hash(text.encode()) for text in TEXTS], np.uint64)


def test_shares_are_met(hashes: np.ndarray) -> None:
    shares = {"train": 0.7, "validation": 0.2, "test": 0.1}
    split = assign_splits(hashes, shares)
    for number, name in enumerate(SPLITS):
        assert abs(np.mean(split == number) - shares[name]) < 0.01
    assert [split_name(int(value), shares) for value in hashes[:20]] == [SPLITS[i] for i in split[:20]]
    assert set(assign_splits(hashes, {"train": 1.0})) == {SPLITS.index("train")}
    assert set(assign_splits(hashes, {"test": 1.0})) == {SPLITS.index("test")}
    assert set(assign_splits(hashes, {"validation": 1.0})) == {SPLITS.index("validation")}


def test_a_larger_validation_split_takes_from_train_alone(hashes: np.ndarray) -> None:
    small = assign_splits(hashes, {"train": 0.8, "validation": 0.1, "test": 0.1})
    large = assign_splits(hashes, {"train": 0.6, "validation": 0.3, "test": 0.1})
    moved = small != large
    assert moved.any()
    assert set(small[moved]) == {SPLITS.index("train")}


def test_a_sample_is_bounded_random_and_free_of_order() -> None:
    sample = sample_texts(TEXTS, 50_000)
    assert 50_000 <= sum(map(len, sample)) < 50_000 + 100
    assert sample == sample_texts(TEXTS[::-1], 50_000)
    assert len(sample) == len(set(sample))
    numbers = [int(text.split()[1]) for text in sample]
    assert 8_000 < np.mean(numbers) < 12_000, "not the head of the corpus"


def test_a_small_corpus_is_taken_whole_and_equal_texts_once() -> None:
    assert sorted(sample_texts(["b", "a", "b"], 1000)) == ["a", "b"]
    assert sample_texts([], 1000) == []
    assert len(sample_texts(["long" * 100, "another" * 100], 1)) == 1
