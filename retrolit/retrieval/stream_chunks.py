"""The chunks of a token stream: what neighbors are looked up for, and which documents they overlap.

A stream is cut every M tokens, wherever documents end, so a stream chunk may hold the end of one document and the start
of the next (the database's chunks never do). End-of-document tokens are left out of what is embedded:

    stream            a b c d e f.g|h i.j k.    (M = 8; . is the end-of-document token)
    tokens            a b c d e f g             h i j k
    documents         0 and 1                   1 and 2

Legend: n chunks, M tokens a chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retrolit.retrieval.chunks import PAD, ChunkDatabase
from retrolit.tokens.store import content_hashes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.tokens import TokenStore


class StreamChunks:
    """The chunks of one store's stream, the last of which may be short; `len(chunks)` of them."""

    def __init__(self, store: TokenStore, chunk_length: int) -> None:
        self._stream = np.asarray(store.tokens)
        self._starts = np.asarray(store.document_starts, dtype=np.int64)
        self._chunk_length = chunk_length

    def __len__(self) -> int:
        return (len(self._stream) + self._chunk_length - 1) // self._chunk_length

    def tokens(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (n, M) int64 of chunks start to end, without the ends of documents, and how many each has (n,)."""
        first = start * self._chunk_length
        stream = self._stream[first : end * self._chunk_length].astype(np.int64)
        closing = self._starts[1:] - 1
        closing = closing[np.searchsorted(closing, first) : np.searchsorted(closing, first + len(stream))]
        there = np.zeros((end - start) * self._chunk_length, dtype=np.bool_)
        there[: len(stream)] = True
        there[closing - first] = False
        tokens = np.full(len(there), PAD, dtype=np.int64)
        tokens[: len(stream)] = stream
        tokens, there = tokens.reshape(-1, self._chunk_length), there.reshape(-1, self._chunk_length)
        left = np.argsort(~there, axis=1, kind="stable")
        lengths = there.sum(axis=1)
        tokens = np.take_along_axis(tokens, left, axis=1)
        tokens[np.arange(self._chunk_length) >= lengths[:, None]] = PAD
        return tokens, lengths

    def documents(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first and the last document of the store that chunks start to end overlap: (n,) and (n,)."""
        chunks = np.arange(start, end)
        first = chunks * self._chunk_length
        last = np.minimum(first + self._chunk_length, len(self._stream)) - 1
        return self._document(first), self._document(last)

    def documents_between(
        self, first: NDArray[np.int64], end: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first and the last document from the start of chunks `first` (n,) to the first token of chunks `end`
        (n,), this token included: (n,) and (n,)."""
        last = np.minimum(end * self._chunk_length, len(self._stream) - 1)
        return self._document(first * self._chunk_length), self._document(last)

    def _document(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, position, side="right") - 1


class OwnDocuments:
    """Which documents of the database are those of a store, or copies of them.

    `offset`: number, in the database, of the store's first document; None when the store is not part of it.
    """

    def __init__(self, store: TokenStore, database: ChunkDatabase, copies: bool) -> None:
        self.offset = database.offset_of(store)
        num_documents = len(store.document_starts) - 1
        if copies:
            # Documents with the same tokens get the same group.
            content = np.concatenate([content_hashes(other.tokens, other.document_starts) for other in database.stores])
            known, self._group = np.unique(content, return_inverse=True)
            own = content_hashes(store.tokens, store.document_starts)
            place = np.minimum(np.searchsorted(known, own), max(len(known) - 1, 0))
            self._own_group = np.where(known[place] == own, place, -1) if len(known) else np.full(len(own), -1)
        else:
            self._group = np.arange(database.num_documents)
            self._own_group = (
                np.full(num_documents, -1) if self.offset is None else self.offset + np.arange(num_documents)
            )

    def among(
        self, first: NDArray[np.int64], last: NDArray[np.int64], documents: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of the database's `documents` (n, S) are documents first to last (n,) of the store, and which are
        copies of one of these: two masks (n, S) that do not overlap."""
        own = np.zeros(documents.shape, dtype=np.bool_)
        if self.offset is not None:
            own = (documents >= self.offset + first[:, None]) & (documents <= self.offset + last[:, None])
        copies = np.zeros_like(own)
        group = self._group[documents]
        for step in range(int((last - first).max(initial=-1)) + 1):
            copies |= group == self._own_group[np.minimum(first + step, last)][:, None]
        return own, copies & ~own
