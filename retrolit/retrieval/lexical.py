"""The built-in embedder: chunks whose words foretell the same words point the same way. No model, no download.

A chunk is a bag of words. Each word adds its row of a table, times the square root of how often the chunk has it, and
the sum is brought to length 1. A word's row is made of

    its rarity      log(chunks / chunks with the word): "the" hardly counts,
    its directions  the word in the space fitted by `directions.py`, in which a chunk lies near what comes next,
    its own mark    a small random vector, all that a word never seen while fitting has: chunks that share an unknown
                    name still find each other.

Legend: n chunks, M tokens a chunk, W words with a row of their own, D dimension.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from retrolit.retrieval.directions import fit_directions
from retrolit.retrieval.embedder import KIND
from retrolit.retrieval.words import Words, WordTable, mix
from retrolit.storage import Manifest, atomic_write
from retrolit.storage.blocks import default_processes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.retrieval.chunks import ChunkDatabase
    from retrolit.tokens import Tokenizer

BUCKET_BITS = 20
"""Words are told apart by 20 bits of their hash."""

KNOWN_WORDS = 2**16
"""At most so many words, the commonest, get a row of their own."""

UNKNOWN_ROWS = 2**12
"""The other words share so many rows, by their hash."""

MARK = 0.4
"""Length of a word's own mark when nothing else is said; the directions of a word have length 1 in the mean (of
squares)."""

ARRAYS = "lexical.npz"


class Bags(NamedTuple):
    """Chunks as bags of words: the distinct words of chunk after chunk."""

    row: NDArray[np.int64]
    """Row of the word's vector (words,)."""
    weight: NDArray[np.float32]
    """Square root of the word's count in its chunk (words,)."""
    offset: NDArray[np.int64]
    """Where each chunk's words begin, and the end (n + 1,)."""


class Vocabulary:
    """Words to rows: `known` (W,) are the buckets of the words with a row of their own; others share UNKNOWN_ROWS."""

    def __init__(self, known: NDArray[np.int64]) -> None:
        self.known = known
        self._row = np.full(2**BUCKET_BITS, -1, dtype=np.int32)
        self._row[known] = np.arange(len(known))

    def bags(self, words: Words, n: int, unknown: bool = True) -> Bags:
        """The words of n chunks; without the unknown ones if asked for."""
        bucket = _bucket(words.hash)
        row = self._row[bucket].astype(np.int64)
        chunk = words.chunk
        if unknown:
            row = np.where(row < 0, len(self.known) + bucket % UNKNOWN_ROWS, row)
        else:
            chunk, row = chunk[row >= 0], row[row >= 0]
        chunk, row, count = _count(chunk, row)
        return Bags(row, np.sqrt(count, dtype=np.float32), np.searchsorted(chunk, np.arange(n + 1)))


class LexicalEmbedder:
    """Embedder by shared and related words; see the file's head. Made by `LexicalEmbedder.fit`, or `load` after `save`.

    Args:
        table: how tokens make words.
        known: (W,) int64 buckets of the words that have a row of their own.
        vectors: (W, D) float16, directions times rarity of these words.
        tokenizer: of the chunks.
        mark: length of a word's own mark.
    """

    def __init__(
        self,
        table: WordTable,
        known: NDArray[np.int64],
        vectors: NDArray[np.float16],
        tokenizer: Tokenizer,
        mark: float = MARK,
    ) -> None:
        self.table, self.tokenizer, self.mark = table, tokenizer, mark
        self.dimension = vectors.shape[1]
        self._vocabulary, self._vectors = Vocabulary(known), vectors
        rows = np.zeros((len(known) + UNKNOWN_ROWS, self.dimension), dtype=np.float32)
        rows[: len(known)] = vectors
        self._rows = torch.from_numpy(rows)  # (W + UNKNOWN_ROWS, D)
        self._rows[len(known) :] += mark * _marks(np.arange(UNKNOWN_ROWS), self.dimension)
        self.fingerprint = self._digest()
        self.threads = default_processes()

    @classmethod
    def fit(
        cls,
        database: ChunkDatabase,
        tokenizer: Tokenizer,
        dimension: int = 384,
        mark: float = MARK,
        sample_chunks: int = 65_536,
        seed: int = 0,
    ) -> LexicalEmbedder:
        """Counts words and finds directions on a random sample of the database's chunks and those that follow them."""
        if dimension < 1:
            raise ValueError(f"dimension: expected at least 1, got {dimension}")
        table = WordTable.of(tokenizer)
        sample = np.arange(len(database))
        if sample_chunks < len(sample):
            sample = np.sort(np.random.default_rng(seed).choice(len(database), sample_chunks, replace=False))
        documents = database.documents(np.minimum(sample + 1, max(len(database) - 1, 0)))
        following = np.where(documents == database.documents(sample), sample + 1, sample)
        following = np.minimum(following, max(len(database) - 1, 0))
        words, next_words = _words(table, database, sample), _words(table, database, following)

        _, bucket, _ = _count(words.chunk, _bucket(words.hash))
        frequency = np.bincount(bucket, minlength=2**BUCKET_BITS)  # chunks with the word
        known = np.flatnonzero(frequency >= 2)
        if len(known) > KNOWN_WORDS:
            known = np.sort(known[np.argsort(-frequency[known], kind="stable")[:KNOWN_WORDS]])
        rarity = np.log((len(sample) + 2) / (frequency[known] + 1)) / np.log(len(sample) + 2)

        vocabulary = Vocabulary(known)
        bags = vocabulary.bags(words, len(sample), unknown=False)
        next_bags = vocabulary.bags(next_words, len(sample), unknown=False)
        directions = fit_directions(_matrix(bags, rarity), _matrix(next_bags, rarity), dimension, seed)
        length = directions.norm() / max(len(known), 1) ** 0.5 + 1e-12
        vectors = (directions / length + mark * _marks(known, dimension)) * torch.from_numpy(rarity).float()[:, None]
        return cls(table, known, vectors.numpy().astype(np.float16), tokenizer, mark)

    def _digest(self) -> str:
        digest = hashlib.sha256(f"lexical 1 {self.tokenizer.fingerprint}".encode())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.shape} {array.dtype}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def embed(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, D) float32 of chunks: tokens (n, M) of which the first lengths (n,) of each row count."""
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)
        for start in range(0, len(tokens), 1024):  # what is made of so many chunks stays in the cache
            part = slice(start, start + 1024)
            n = len(tokens[part])
            bags = self._vocabulary.bags(self.table.words(tokens[part], lengths[part]), n)
            total = torch.nn.functional.embedding_bag(
                torch.from_numpy(bags.row),
                self._rows,
                torch.from_numpy(bags.offset),
                per_sample_weights=torch.from_numpy(bags.weight),
                mode="sum",
                include_last_offset=True,
            )  # (n, D)
            torch.nn.functional.normalize(total, dim=-1, out=torch.from_numpy(vectors[part]))
        return vectors

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (n, D) float32 of texts of any length."""
        ids = self.tokenizer.encode_batch(list(texts))
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        tokens = np.zeros((len(ids), max(lengths.max(initial=0), 1)), dtype=np.int64)
        for row, values in zip(tokens, ids, strict=True):
            row[: len(values)] = values
        return self.embed(tokens, lengths)

    def save(self, folder: str | Path) -> None:
        """Writes the tables, with a manifest."""
        folder = Path(folder)
        with atomic_write(folder / ARRAYS) as file:
            np.savez(file, **self._arrays())  # pyright: ignore[reportArgumentType]
        settings = {"type": "lexical", "dimension": self.dimension, "fingerprint": self.fingerprint}
        Manifest(KIND, settings, {"tokenizer": self.tokenizer.fingerprint}, {}, {ARRAYS: {}}).write(folder)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer) -> LexicalEmbedder:
        """What `save` wrote; use `load_embedder`, which checks the tokenizer."""
        with np.load(Path(folder) / ARRAYS, allow_pickle=False) as arrays:
            if "mark" not in arrays:
                raise ValueError(
                    f"{folder}: the embedder was made by an earlier version of retrolit; make it and its index again "
                    "with: retrolit prepare -c data.yaml"
                )
            table = WordTable(arrays["hash"], arrays["length"], arrays["begins"], arrays["ends"])
            return cls(table, arrays["known"], arrays["vectors"], tokenizer, float(arrays["mark"]))

    def _arrays(self) -> dict[str, Any]:
        table = self.table
        words = {"hash": table.hash, "length": table.length, "begins": table.begins, "ends": table.ends}
        return {**words, "known": self._vocabulary.known, "vectors": self._vectors, "mark": np.float64(self.mark)}


def _words(table: WordTable, database: ChunkDatabase, ids: NDArray[np.int64]) -> Words:
    """The words of chunks, a few thousand chunks at a time."""
    parts = []
    for start in range(0, len(ids), 4096):
        words = table.words(*database.tokens(ids[start : start + 4096]))
        parts.append(Words(words.chunk + start, words.hash))
    if not parts:
        return Words(np.zeros(0, np.int64), np.zeros(0, np.uint64))
    return Words(*map(np.concatenate, zip(*parts, strict=True)))


def _bucket(hash: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hash >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def _count(
    chunk: NDArray[np.int64], value: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct (chunk, value) in order, and how often each occurs; values are below 2^32."""
    both, count = np.unique(chunk << 32 | value, return_counts=True)
    return both >> 32, both & (2**32 - 1), count


def _matrix(bags: Bags, rarity: NDArray[np.float64]) -> torch.Tensor:
    """(n, W) sparse: weight times rarity, rows of length 1 or 0."""
    value = bags.weight * rarity[bags.row]
    chunk = np.repeat(np.arange(len(bags.offset) - 1), np.diff(bags.offset))
    length = np.sqrt(np.bincount(chunk, value * value, minlength=len(bags.offset) - 1))
    value = np.divide(value, length[chunk], out=np.zeros_like(value), where=length[chunk] > 0)
    with warnings.catch_warnings():  # that such tensors are new, and unchecked unless asked for
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(bags.offset),
            torch.from_numpy(bags.row),
            torch.from_numpy(value).float(),
            size=(len(bags.offset) - 1, len(rarity)),
        )


def _marks(number: NDArray[np.int64], dimension: int) -> torch.Tensor:
    """(numbers, D): for each number a fixed vector of length 1, its signs the bits of a hash."""
    blocks = np.arange(-(-dimension // 64), dtype=np.uint64)
    bits = mix(number[:, None].astype(np.uint64) * np.uint64(1_000_003) + blocks + np.uint64(1))
    signs = np.unpackbits(bits.view(np.uint8), axis=1)[:, :dimension]
    return torch.from_numpy(signs.astype(np.float32) * 2 - 1) / dimension**0.5
