"""Near duplicates of whole documents: pairs that share most of their 13-grams (Jaccard similarity of 0.8, as in RETRO).

    similarity of A and B = |grams(A) and grams(B)| / |grams(A) or grams(B)|, over the sets of runs of 13 tokens

All pairs are too many to compare. MinHash finds the candidates: under a random hash function, the chance that two sets
have the same smallest value is just their similarity. Of each document 60 such values are kept, in 20 bands of 3;
documents that agree in a band are compared gram by gram. A pair of similarity 0.8 is missed in one case of a million:
(1 - 0.8^3)^20. What is found is exact, so it is counted, not estimated.

Legend: N tokens, D documents, P = 60 hash functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retrolit.tokens.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.tokens import TokenStore

NGRAM = 13
BANDS, ROWS = 20, 3
BLOCK_TOKENS = 2**20

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FUNCTIONS = np.random.default_rng(13).integers(2**64, size=BANDS * ROWS, dtype=np.uint64) | np.uint64(1)


@dataclass(frozen=True)
class Twin:
    """An evaluated document, and the training document most like it."""

    corpus: str
    document: int
    source: str
    """Where the evaluated document is from, for people."""
    training_corpus: str
    training_document: int
    training_source: str
    similarity: float
    """Jaccard similarity of their 13-grams, exact."""


def find_twins(
    evaluated: Mapping[str, TokenStore],
    training: Mapping[str, TokenStore],
    threshold: float = 0.8,
    progress: Progress = silent,
) -> list[Twin]:
    """For each evaluated document that has a near duplicate, or a copy, among the training documents: the closest.

    Documents of less than 13 tokens have no gram and no twin. Raises ValueError for a threshold that the bands cannot
    promise.
    """
    if not 0.5 <= threshold <= 1:
        raise ValueError(f"threshold: expected 0.5 to 1, got {threshold}; similarity below a half is not searched for")
    owners = [(name, document) for name, store in evaluated.items() for document in range(len(store))]
    bands = np.concatenate([_all_bands(store) for store in evaluated.values()] or [np.empty((0, BANDS), np.uint64)])
    has_grams = np.flatnonzero(bands.any(axis=1))
    order = [has_grams[np.argsort(bands[has_grams, band], kind="stable")] for band in range(BANDS)]
    best: dict[int, Twin] = {}
    with progress("comparing documents", sum(store.num_tokens for store in training.values()), "tokens") as advance:
        done = 0
        for name, store in training.items():
            for start, end in _blocks(store):
                theirs = _bands(store, start, end)
                for owner, other in _candidates(bands, order, theirs):
                    twin = _compare(evaluated, owners[owner], training, (name, start + other))
                    if twin.similarity >= threshold and twin.similarity > getattr(best.get(owner), "similarity", 0.0):
                        best[owner] = twin
                advance(done + int(store.document_starts[end]))
            done += store.num_tokens
    return [best[owner] for owner in sorted(best)]


def ngram_hashes(tokens: NDArray, ngram: int = NGRAM) -> NDArray[np.uint64]:
    """A hash of each run of tokens (N,): (N - ngram + 1,), none where they are fewer."""
    width = max(0, len(tokens) - ngram + 1)
    hashes = np.zeros(width, dtype=np.uint64)
    for step in range(ngram):
        hashes = (hashes ^ (hashes >> np.uint64(31))) * _MULTIPLIER + tokens[step : step + width].astype(np.uint64)
    return hashes


def _blocks(store: TokenStore) -> list[tuple[int, int]]:
    """Documents in groups of about a million tokens: the first of each, and the one after its last."""
    starts = store.document_starts
    cuts = np.searchsorted(starts, np.arange(BLOCK_TOKENS, store.num_tokens, BLOCK_TOKENS))
    bounds = np.unique([0, *cuts, len(store)])
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _all_bands(store: TokenStore) -> NDArray[np.uint64]:
    return np.concatenate([_bands(store, *block) for block in _blocks(store)] or [np.empty((0, BANDS), np.uint64)])


def _bands(store: TokenStore, start: int, end: int) -> NDArray[np.uint64]:
    """One number a band of documents start to end, (D, BANDS): equal where all three values are; 0 without a gram."""
    starts = np.asarray(store.document_starts[start : end + 1], dtype=np.int64)
    hashes = ngram_hashes(np.asarray(store.tokens[starts[0] : starts[-1]]))
    first, last = starts[:-1] - starts[0], starts[1:] - starts[0] - NGRAM  # the last gram ends before the closing token
    long = np.flatnonzero(last > first)
    bands = np.zeros((end - start, BANDS), dtype=np.uint64)
    if not len(long):
        return bands
    limits = np.stack([first[long], last[long]], axis=1).ravel()
    hashes = np.append(hashes, np.uint64(0))  # a limit may lie just past the end
    hashes ^= hashes >> np.uint64(29)
    for number, function in enumerate(_FUNCTIONS):
        values = hashes * function
        values ^= values >> np.uint64(32)
        smallest = np.minimum.reduceat(values, limits)[::2]  # (documents that have grams,)
        band = bands[long, number // ROWS]
        bands[long, number // ROWS] = (band ^ (band >> np.uint64(31))) * _MULTIPLIER + smallest + np.uint64(1)
    return bands


def _candidates(
    bands: NDArray[np.uint64], order: list[NDArray[np.int64]], theirs: NDArray[np.uint64]
) -> set[tuple[int, int]]:
    """Pairs (evaluated, training) of rows that agree in a band; `order` sorts the evaluated ones by each band."""
    pairs: set[tuple[int, int]] = set()
    there = np.flatnonzero(theirs.any(axis=1))
    for band in range(BANDS):
        known = bands[order[band], band]
        wanted = theirs[there, band]
        low, high = (np.searchsorted(known, wanted, side=side) for side in ("left", "right"))
        for row in np.flatnonzero(high > low).tolist():
            pairs |= {(owner, int(there[row])) for owner in order[band][low[row] : high[row]].tolist()}
    return pairs


def _compare(
    evaluated: Mapping[str, TokenStore],
    ours: tuple[str, int],
    training: Mapping[str, TokenStore],
    other: tuple[str, int],
) -> Twin:
    store, training_store = evaluated[ours[0]], training[other[0]]
    grams, theirs = (
        np.unique(ngram_hashes(s[number][:-1])) for s, number in ((store, ours[1]), (training_store, other[1]))
    )
    shared = len(np.intersect1d(grams, theirs, assume_unique=True))
    similarity = shared / (len(grams) + len(theirs) - shared)
    return Twin(*ours, store.source(ours[1]), *other, training_store.source(other[1]), similarity)
