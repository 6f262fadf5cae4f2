"""Words of token chunks as 64-bit hashes, without making text: a word has one hash however it was tokenized.

A word's hash is a polynomial in its lower-cased bytes, so it can be put together from the hashes of its tokens:
hash("hello") = hash("hel") + B^3 hash("lo"), modulo 2^64. " Hello", "hello" and "HEL" + "LO" therefore agree, and a
byte tokenizer gives the same words as a BPE one. Where no spaces are written between words (Chinese, Japanese, Thai
...), every token is taken for a word.

Legend: V tokens in the vocabulary, n chunks of up to M tokens.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.tokens import Tokenizer

_BASE = 0x9E3779B97F4A7C15
"""B, odd: it has an inverse modulo 2^64, so a power of B can be divided out again."""

_LONGEST = 32
"""Bytes of a token's letters that count; longer ones are cut."""


class Words(NamedTuple):
    """The words of some chunks, chunk after chunk in reading order: two arrays (words,)."""

    chunk: NDArray[np.int64]
    """The row the word is from; never falls."""
    hash: NDArray[np.uint64]
    """What the word is, well mixed: any of its bits serve."""


class WordTable:
    """What each token of a vocabulary adds to a word, and the words of chunks by it.

    Attributes:
        hash: (V,) uint64, of the token's letters; 0 where it has none.
        length: (V,) uint8, bytes hashed; 0 means that the token has no letters and ends a word.
        begins, ends: (V,) bool, whether a word border lies before or after the token's letters.
    """

    def __init__(
        self, hash: NDArray[np.uint64], length: NDArray[np.uint8], begins: NDArray[np.bool_], ends: NDArray[np.bool_]
    ) -> None:
        self.hash, self.length, self.begins, self.ends = hash, length, begins, ends

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordTable:
        """The table of a tokenizer's vocabulary; it decodes every token once.

        Raises:
            ValueError: no token of the vocabulary decodes to text.
        """
        # Some tokenizers drop a leading space when they decode: a token is read behind another one.
        anchor = _anchor(tokenizer)
        skip = len(tokenizer.decode([anchor]))
        table = cls(
            np.zeros(tokenizer.vocab_size, np.uint64),
            np.zeros(tokenizer.vocab_size, np.uint8),
            np.zeros(tokenizer.vocab_size, np.bool_),
            np.zeros(tokenizer.vocab_size, np.bool_),
        )
        for id in range(tokenizer.vocab_size):
            text = tokenizer.decode([anchor, id])[skip:]
            if "\ufffd" in text:  # part of a character: it is told by its id and joins what stands beside it
                table.hash[id], table.length[id] = _polynomial(b"\xff" + id.to_bytes(4, "little")), 5
                continue
            letters = "".join(filter(_is_letter, text)).lower().encode()[:_LONGEST]
            if letters:
                table.hash[id], table.length[id] = _polynomial(letters), len(letters)
                table.begins[id] = not _is_letter(text[0]) or any(map(_is_unspaced, text))
                table.ends[id] = not _is_letter(text[-1])
        return table

    def words(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Words:
        """The words of chunks, tokens (n, M) of which the first lengths (n,) count.

        A word cut by the chunk's border is there with the part inside.
        """
        n, width = tokens.shape
        length = self.length[tokens]
        length[np.arange(width) >= lengths[:, None]] = 0
        part = length > 0  # (n, M): is part of a word
        # A word begins at a part that says so, or that has no part before it; it ends before the next begin.
        before = np.zeros((n, width + 2), dtype=np.bool_)
        before[:, 1:-1] = part
        begin = self.begins[tokens]
        begin[:, 1:] |= self.ends[tokens[:, :-1]]
        begin |= ~before[:, :-2]
        begin &= part
        end = part.copy()
        end[:, :-1] &= begin[:, 1:] | ~part[:, 1:]

        offset = np.cumsum(length, axis=1, dtype=np.int64)  # bytes up to and with each token
        powers, inverses = _powers(width * _LONGEST + 1)
        hashed = self.hash[tokens]
        hashed *= part
        hashed *= powers[offset - length]
        total = np.cumsum(hashed, axis=1, dtype=np.uint64)
        first, last = np.flatnonzero(begin), np.flatnonzero(end)  # of the same words, in the same order
        total, hashed, offset, length = total.ravel(), hashed.ravel(), offset.ravel(), length.ravel()
        word = total[last] - total[first] + hashed[first]
        word *= inverses[offset[first] - length[first]]
        return Words(first // width, mix(word))


def _anchor(tokenizer: Tokenizer) -> int:
    """A token that decodes to the same text whatever follows it: "a", or the first one where "a" is none."""
    for id in [*tokenizer.encode("a")[-1:], *range(tokenizer.vocab_size)]:
        text = tokenizer.decode([id])
        if text and "\ufffd" not in text and tokenizer.decode([id, id]).startswith(text):
            return id
    raise ValueError(
        f"the lexical embedder reads words: expected a tokenizer with tokens that decode to text, got "
        f"{tokenizer.vocab_size} tokens that decode to nothing; use another tokenizer, or an encoder embedder"
    )


def mix(hash: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same hashes with every bit depending on every bit (the finalizer of splitmix64)."""
    hash = (hash ^ (hash >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hash = (hash ^ (hash >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hash ^ (hash >> np.uint64(31))


def _polynomial(letters: bytes) -> int:
    value = 0
    for byte in reversed(letters):
        value = (value * _BASE + byte + 1) % 2**64
    return value


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """B^0 ... B^(count - 1) and their inverses modulo 2^64."""
    if len(_POWERS[0]) < count:
        for which, base in enumerate((_BASE, pow(_BASE, -1, 2**64))):
            factors = np.full(count, base, dtype=np.uint64)
            factors[0] = 1
            _POWERS[which] = np.cumprod(factors, dtype=np.uint64)
    return _POWERS[0], _POWERS[1]


_POWERS = [np.ones(1, np.uint64), np.ones(1, np.uint64)]


def _is_letter(char: str) -> bool:
    """Letters, digits and the marks that combine with them."""
    return char.isalnum() or unicodedata.category(char).startswith("M")


def _is_unspaced(char: str) -> bool:
    """Scripts that put no spaces between words: Thai to Khmer, kana, Chinese characters."""
    return "\u0e00" <= char <= "\u0eff" or "\u1780" <= char <= "\u17ff" or "\u3040" <= char <= "\u9fff"
