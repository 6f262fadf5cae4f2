"""Which conversations share a passage, word for word.

Sets that write one source example in many ways (T0's prompts), or ask many questions about one text, seldom have the
same question twice, and yet a test conversation would be known from training. Of every run of 8 consecutive 13-grams
of words the one with the lowest hash is marked (winnowing), so any two texts with 20 words in a row in common have a
mark in common. A mark that very many texts have is no passage of an example but of the wording around it, and counts
for nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

WORDS = 13
"""Words of an n-gram, as in the published checks of test sets against training sets."""

WINDOW = 8
"""Consecutive n-grams of which one is marked."""

COMMON = 100
"""A mark of more texts than this belongs to the wording that a set puts around its examples."""

WORD = re.compile(r"\w+")


def passage_marks(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The marks of all texts, one text after the other, uint64 (marks,), and how many each has, int64 (texts,)."""
    marks, counts = [np.empty(0, np.uint64)], np.zeros(len(texts), np.int64)
    multipliers = np.array([pow(FACTOR, power, 2**64) for power in range(WORDS)], np.uint64)
    for number, text in enumerate(texts):
        words = WORD.findall(text.lower())
        hashes = np.fromiter(map(_word_hash, words), np.uint64, len(words))
        if len(hashes) < WORDS:
            continue
        grams = np.lib.stride_tricks.sliding_window_view(hashes, WORDS) @ multipliers  # modulo 2^64
        grams ^= grams >> np.uint64(32)  # the low words decide the order too
        lowest = np.lib.stride_tricks.sliding_window_view(grams, min(WINDOW, len(grams))).min(axis=1)
        marks.append(np.unique(lowest))
        counts[number] = len(marks[-1])
    return np.concatenate(marks), counts


def group_hashes(marks: np.ndarray, counts: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Of texts with these marks, as `passage_marks` gives them, and hashes of their own, uint64 (texts,): the lowest
    hash in each one's group, uint64 (texts,).

    Texts that share a passage or have the same hash are in one group, and so are those that others join. In whatever
    order the texts come, each gets the same.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    pairs = [_joined(marks, owner, COMMON), _joined(hashes, np.arange(len(hashes)), len(hashes))]
    one, other = np.concatenate(pairs, axis=1)
    group = np.arange(len(hashes))  # of each text the lowest number known to be in its group
    while True:
        lower = np.minimum(group[one], group[other])
        following = group.copy()
        np.minimum.at(following, group[one], lower)
        np.minimum.at(following, group[other], lower)
        following = following[following]
        if (following == group).all():
            break
        group = following
    lowest = hashes.copy()
    np.minimum.at(lowest, group, hashes)
    return lowest[group]


def _joined(values: np.ndarray, owner: np.ndarray, common: int) -> np.ndarray:
    """(2, pairs): for every value that 2 to `common` times is some owner's, the first of these and each other one."""
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    begins = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    sizes = np.diff(np.append(begins, len(values)))
    first = np.repeat(owner[begins], sizes)
    kept = np.repeat(sizes <= common, sizes) & (first != owner)
    return np.stack([first[kept], owner[kept]])


FACTOR = 0x9E3779B97F4A7C15


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
