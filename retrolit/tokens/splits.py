"""Which split a document belongs to: decided by a hash of its text and nothing else.

So splits are stable when documents are added or reordered, disjoint, and exact duplicates fall on one side. One split's
share can grow without moving documents between the other two: test counts from the bottom, validation from above it.
"""

from __future__ import annotations

import hashlib

import numpy as np

from retrolit.tokens.config import SPLITS


def text_hash(utf8: bytes) -> int:
    """64 bits of BLAKE2b over a document's UTF-8."""
    return int.from_bytes(hashlib.blake2b(utf8, digest_size=8).digest(), "little")


def split_name(text_hash: int, shares: dict[str, float]) -> str:
    """The split of one document."""
    return SPLITS[assign_splits(np.array([text_hash], np.uint64), shares)[0]]


def assign_splits(hashes: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """For each hash, uint64 (N,), the number of its split in SPLITS: int8 (N,)."""
    place = hashes / 2.0**64
    test = shares.get("test", 0.0)
    validation = test + shares.get("validation", 0.0)
    split = np.full(len(hashes), SPLITS.index("train"), np.int8)
    split[place < validation] = SPLITS.index("validation")
    split[place < test] = SPLITS.index("test")
    return split
