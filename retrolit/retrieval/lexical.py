"""The built-in embedder: chunks that share rare words get vectors that point the same way.

A chunk is its bag of words and word pairs, each weighted by the square root of its count and by how rare it is in the
corpus (inverse document frequency, fitted on a random sample), folded into `dimension` numbers by a sparse random
projection: every word adds +w or -w to a few coordinates, both chosen by its hash. Inner products survive this within
about 1 / sqrt(dimension). No model, no download, no training beyond counting words.

Legend: n chunks, M tokens a chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrolit.retrieval.embedder import KIND
from retrolit.retrieval.words import Words, WordTable, mix
from retrolit.storage import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.retrieval.chunks import ChunkDatabase
    from retrolit.tokens import Tokenizer

BUCKET_BITS = 20
"""Words are counted in 2^20 buckets: rarely do two share one."""

COORDINATES = 4
"""Coordinates of the vector that a word adds to."""

PAIR_WEIGHT = 0.25
"""Weight of a pair of neighboring words against that of a word equally rare."""

ARRAYS = "lexical.npz"


class LexicalEmbedder:
    """Embedder by shared words; see the file's head. Made by `LexicalEmbedder.fit`, or `load` after `save`.

    `rarity`: (2^BUCKET_BITS,) float32, a word's weight, by its bucket.
    """

    def __init__(
        self, table: WordTable, rarity: NDArray[np.float32], tokenizer: Tokenizer, dimension: int = 384
    ) -> None:
        if dimension < 8:
            raise ValueError(f"dimension: expected at least 8, got {dimension}")
        self.table, self.rarity, self.tokenizer, self.dimension = table, rarity, tokenizer, dimension

    @classmethod
    def fit(
        cls,
        database: ChunkDatabase,
        tokenizer: Tokenizer,
        dimension: int = 384,
        sample_chunks: int = 200_000,
        seed: int = 0,
    ) -> LexicalEmbedder:
        """Counts words on a random sample of the database's chunks."""
        table = WordTable.of(tokenizer)
        sample = np.arange(len(database))
        if sample_chunks < len(database):
            sample = np.sort(np.random.default_rng(seed).choice(len(database), sample_chunks, replace=False))
        counts = np.zeros(2**BUCKET_BITS, dtype=np.int64)
        for ids in np.split(sample, range(4096, len(sample), 4096)):
            words = table.words(*database.tokens(ids))
            chunk_and_bucket, _ = _count(words.chunk, _bucket(words.hash))
            counts += np.bincount(chunk_and_bucket % 2**BUCKET_BITS, minlength=2**BUCKET_BITS)
        rarity = np.log((len(sample) + 1) / (counts + 1)) / np.log(len(sample) + 2)
        return cls(table, rarity.astype(np.float32), tokenizer, dimension)

    @cached_property
    def fingerprint(self) -> str:
        """Names everything a vector depends on."""
        digest = hashlib.sha256(f"lexical 1 {self.dimension} {self.tokenizer.fingerprint}".encode())
        for array in (self.table.hash, self.table.length, self.table.begins, self.table.ends, self.rarity):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def embed(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, dimension) float32 of chunks: tokens (n, M) of which the first lengths (n,) of each row count."""
        rows = np.empty((len(tokens), self.dimension), dtype=np.float32)
        for start in range(0, len(tokens), 1024):
            part = slice(start, start + 1024)
            words = self.table.words(tokens[part], lengths[part])
            rows[part] = self._project(words, len(tokens[part]))
        return rows

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (n, dimension) float32 of texts of any length."""
        ids = self.tokenizer.encode_batch(list(texts))
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        tokens = np.zeros((len(ids), max(lengths.max(initial=0), 1)), dtype=np.int64)
        for row, values in zip(tokens, ids, strict=True):
            row[: len(values)] = values
        return self.embed(tokens, lengths)

    def save(self, folder: str | Path) -> None:
        """Writes the word table and the rarities, with a manifest."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = self.table
        arrays = {"hash": table.hash, "length": table.length, "begins": table.begins, "ends": table.ends}
        np.savez(folder / ARRAYS, rarity=self.rarity, **arrays)
        settings = {"type": "lexical", "dimension": self.dimension, "fingerprint": self.fingerprint}
        Manifest(KIND, settings, {"tokenizer": self.tokenizer.fingerprint}, {}, {ARRAYS: {}}).write(folder)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer) -> LexicalEmbedder:
        """What `save` wrote; use `load_embedder`, which checks the tokenizer."""
        with np.load(Path(folder) / ARRAYS) as arrays:
            table = WordTable(arrays["hash"], arrays["length"], arrays["begins"], arrays["ends"])
            return cls(table, arrays["rarity"], tokenizer, Manifest.read(folder, KIND).settings["dimension"])

    def _project(self, words: Words, n: int) -> NDArray[np.float32]:
        """The weighted words of n chunks, folded into (n, dimension), rows of length 1 or 0."""
        weight = self.rarity[_bucket(words.hash)]
        adjacent = words.chunk[1:] == words.chunk[:-1]
        pair_hash = mix(words.hash[:-1] * np.uint64(3) + words.hash[1:])[adjacent]
        pair_weight = (PAIR_WEIGHT / 2) * (weight[:-1] + weight[1:])[adjacent]
        chunk = np.concatenate([words.chunk, words.chunk[:-1][adjacent]])
        hash = np.concatenate([words.hash, pair_hash])
        weight = np.concatenate([weight, pair_weight])

        folded = np.zeros(n * self.dimension)
        row = chunk * self.dimension
        for _ in range(COORDINATES):
            hash = mix(hash)
            column = ((hash >> np.uint64(33)) * np.uint64(self.dimension) >> np.uint64(31)).astype(np.int64)
            sign = 1.0 - 2.0 * (hash & np.uint64(1)).astype(np.float64)
            folded += np.bincount(row + column, sign * weight, minlength=len(folded))
        folded = folded.reshape(n, self.dimension)
        length = np.sqrt(np.einsum("nd,nd->n", folded, folded))[:, None]
        return np.divide(folded, length, out=np.zeros_like(folded), where=length > 0).astype(np.float32)


def _bucket(hash: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hash >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def _count(chunk: NDArray[np.int64], bucket: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct buckets of each chunk, as chunk x 2^BUCKET_BITS + bucket in order, and how often each occurs."""
    return np.unique(chunk << BUCKET_BITS | bucket, return_counts=True)
