"""Small stores, databases and vectors to retrieve from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from retrolit.tokens import ByteTokenizer, TokenStore, write_store


class Rows:
    """Vectors in memory."""

    def __init__(self, rows: np.ndarray) -> None:
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        self.array = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0).astype(np.float32)
        self.dimension = rows.shape[1]
        self.fingerprint = hashlib.sha256(self.array.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        return self.array[ids]


@pytest.fixture
def rows() -> Callable[[np.ndarray], Rows]:
    """Vectors of length 1 from an array (n, d)."""
    return Rows


@pytest.fixture
def clustered() -> Rows:
    """3,000 vectors of 16 dimensions around 60 centers."""
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((60, 16))
    return Rows(centers[generator.integers(0, 60, 3000)] + 0.2 * generator.standard_normal((3000, 16)))


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., TokenStore]:
    """A store of texts as bytes."""

    def make(name: str, texts: Sequence[str]) -> TokenStore:
        tokenizer = ByteTokenizer()
        write_store(tmp_path / name, [[*tokenizer.encode(text), tokenizer.eod_id] for text in texts], 257)
        return TokenStore(tmp_path / name)

    return make


WORDS = [
    *("river", "mountain", "copper", "violin", "harbor", "lantern", "meadow", "falcon", "granite", "cotton", "pepper"),
    *("saddle", "temple", "winter", "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer"),
    *("island", "jacket", "kettle", "ladder", "magnet", "needle", "orange", "pillow", "rabbit", "saucer", "trumpet"),
]


@pytest.fixture
def texts() -> list[str]:
    """Forty documents of 5 to 64 words each, about a few subjects."""
    generator = np.random.default_rng(1)
    documents = []
    for _ in range(40):
        subject = generator.choice(WORDS, 6, replace=False)
        documents.append(" ".join(generator.choice(subject, generator.integers(5, 65))))
    return documents


@pytest.fixture
def same_but_for_equals() -> Callable[..., None]:
    """Asserts that ids (n, S) are those expected, but where these are as near as the next one, or the last of a row.

    What is as near as the last that is searched may be another's own text, so that two rows in a hundred may differ.
    """

    def check(ids: np.ndarray, expected: np.ndarray, distances: np.ndarray) -> None:
        there = ((ids < 0) == (expected < 0)).all(axis=1)
        assert there.mean() > 0.98
        ids, expected, distances = ids[there], expected[there], distances[there]
        step = (distances[:, 1:] > distances[:, :-1] + 1e-5) & (expected[:, 1:] >= 0)
        apart = np.pad(step, ((0, 0), (1, 0)), constant_values=True) & np.pad(step, ((0, 0), (0, 1)))
        assert apart.any()
        np.testing.assert_array_equal(ids[apart], expected[apart])

    return check
