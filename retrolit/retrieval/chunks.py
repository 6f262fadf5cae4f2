"""The chunk database: every document of one or several token stores, cut into chunks of M tokens.

Nothing is stored per chunk. Documents are cut from their start and the last chunk may be short, so the number of
chunks of a document follows from its length, and the running sum of these numbers finds any chunk:

    document          0          1   2        (M = 4; . is the end-of-document token, part of no chunk)
    tokens            a b c d e f.   .   g h i.
    chunks            [0    ][1 ]       [2  ]
    first_chunk       0              2   2        3

Legend: M tokens a chunk, R retrieved tokens (the chunk and its continuation), n chunks asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrolit.storage import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from retrolit.tokens import TokenStore

PAD = 0
"""What stands where there is no token. It may also be a real token: only the length or the mask tells them apart."""


class Spans(NamedTuple):
    """Where chunks lie: four arrays of the shape of the ids asked for, int64."""

    store: NDArray[np.int64]
    """Number of the store."""
    document: NDArray[np.int64]
    """Number of the document within its store."""
    start: NDArray[np.int64]
    """Position of the first token in the store's stream."""
    end: NDArray[np.int64]
    """Position after the last token in the store's stream; the end-of-document token is never inside."""


class ChunkDatabase:
    """The chunks of `stores`, numbered consecutively over all of them; a sequence of `len(database)` ids.

    Every document is taken to end in its end-of-document token, as `retrolit prepare` writes them. A document that is
    empty but for this token has no chunk. Adding a store at the end leaves the ids of all others as they were.

    With a `folder`, where the documents lie (24 bytes each) is written there once, and mapped by every process of a
    machine from then on; else, and where nothing can be written, each process has it in memory.
    """

    def __init__(self, stores: Sequence[TokenStore], chunk_length: int = 64, folder: Path | None = None) -> None:
        if chunk_length < 1:
            raise ValueError(f"chunk_length: expected at least 1 token, got {chunk_length}")
        if not stores:
            raise ValueError("ChunkDatabase: expected at least one token store, got none")
        self.stores = tuple(stores)
        self.chunk_length = chunk_length
        self.folder = folder
        # Documents are numbered over all stores.
        self._first_document = _running_sum([len(store) for store in self.stores])
        documents = self._documents() if folder is None else self._mapped_documents(folder)
        # A document's first token and the position after its last one; its first chunk, and the end of the last's.
        self._document_start, self._document_end, self._first_chunk = documents[0, :-1], documents[1, :-1], documents[2]
        # Plain arrays over the same memory maps: indexing them skips np.memmap's bookkeeping.
        self._streams = [np.asarray(store.tokens) for store in self.stores]

    def __reduce__(self) -> tuple:
        """Another process opens the stores itself."""
        return ChunkDatabase, (self.stores, self.chunk_length, self.folder)

    def __len__(self) -> int:
        return int(self._first_chunk[-1])

    @property
    def num_documents(self) -> int:
        """Documents of all stores, those without a chunk included."""
        return len(self._document_start)

    @property
    def store_bounds(self) -> NDArray[np.int64]:
        """(stores + 1,): chunks of store i are numbered from bounds[i] up to bounds[i + 1]."""
        return self._first_chunk[self._first_document]

    @property
    def fingerprint(self) -> str:
        """Names the stores, their order and the chunk length."""
        parts = [f"chunks of {self.chunk_length}", *(store.fingerprint for store in self.stores)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def documents(self, ids: ArrayLike) -> NDArray[np.int64]:
        """The documents the chunks are from, numbered consecutively over all stores; same shape as `ids`.

        Raises:
            ValueError: an id is not in the database.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            wrong = ids[(ids < 0) | (ids >= len(self))].flat[0]
            raise ValueError(
                f"chunk id {wrong}: expected 0 to {len(self) - 1}, the chunks of this database; "
                "were the neighbors made with another one?"
            )
        # The last document that starts at or before the id: documents without a chunk start where the next one does.
        return np.searchsorted(self._first_chunk, ids, side="right") - 1

    def first_chunk(self, documents: ArrayLike) -> NDArray[np.int64]:
        """Ids of the first chunks of these documents, numbered over all stores; same shape. A document's chunks end
        where those of the next begin; there is a next one behind the last."""
        return self._first_chunk[np.asarray(documents)]

    def offset_of(self, store: TokenStore) -> int | None:
        """The number, over all stores, of the first document of `store`; None when it is not part of the database."""
        for number, other in enumerate(self.stores):
            if other.fingerprint == store.fingerprint:
                return int(self._first_document[number])
        return None

    def locate(self, ids: ArrayLike) -> Spans:
        """Where the chunks lie; see Spans. O(log documents) for each.

        Raises:
            ValueError: an id is not in the database.
        """
        ids = np.asarray(ids, dtype=np.int64)
        documents = self.documents(ids)
        store = np.searchsorted(self._first_document, documents, side="right") - 1
        start = self._start(ids, documents)
        end = np.minimum(start + self.chunk_length, self._document_end[documents])
        return Spans(store, documents - self._first_document[store], start, end)

    def tokens(self, ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The chunks' tokens (n, M) int64, padded on the right, and how many each has (n,), 1 to M.

        Raises:
            ValueError: an id is not in the database.
        """
        ids = np.asarray(ids, dtype=np.int64)
        tokens, mask = self._gather(ids, self.chunk_length)
        return tokens, mask.sum(axis=-1)

    def neighbor_tokens(
        self, ids: ArrayLike, num_retrieved_chunks: int = 2
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The chunks and what follows them in their documents: tokens (..., R) int64, mask (..., R) True on a token.

        R = num_retrieved_chunks x chunk_length. The text stops at the document's end: what would follow is another
        document's. An id of -1, "no neighbor", is masked all over. `ids` may have any shape, e.g. (L, K).

        Raises:
            ValueError: an id is neither -1 nor in the database.
        """
        ids = np.asarray(ids, dtype=np.int64)
        none = ids == -1
        if not none.any():
            return self._gather(ids, num_retrieved_chunks * self.chunk_length)
        if not len(self):
            shape = (*ids.shape, num_retrieved_chunks * self.chunk_length)
            self.documents(ids[~none])  # any other id is an error here
            return np.full(shape, PAD, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        tokens, mask = self._gather(np.where(none, 0, ids), num_retrieved_chunks * self.chunk_length)
        tokens[none] = PAD
        mask[none] = False
        return tokens, mask

    def checksum(self, first: int, end: int) -> bytes:
        """Names the tokens of the chunks from `first` up to `end`, all of one store: 32 bytes."""
        spans = self.locate(np.arange(first, end))
        origin = spans.start[0]
        digest = hashlib.sha256(self._streams[int(spans.store[0])][origin : spans.end[-1]].data)
        for border in (spans.start, spans.end):
            digest.update((border - origin).data)
        return digest.digest()

    def source(self, id: int) -> str:
        """Where a chunk is from, for people: store, document, and its tokens counted from the document's start."""
        document = self.documents(id)
        spans = self.locate(id)
        store = self.stores[int(spans.store)]
        first = int(spans.start - self._document_start[document])
        last = int(spans.end - self._document_start[document]) - 1
        name = f"{store.prefix.parent.name}/{store.prefix.name}"
        return f"{name}: {store.source(int(spans.document))}, tokens {first}-{last}"

    def _documents(self) -> NDArray[np.int64]:
        """Start, end and first chunk of every document, and at the end the number of chunks: (3, documents + 1)."""
        starts = [np.asarray(store.document_starts, dtype=np.int64) for store in self.stores]
        documents = np.zeros((3, int(self._first_document[-1]) + 1), np.int64)
        documents[0, :-1] = np.concatenate([own[:-1] for own in starts])
        documents[1, :-1] = np.maximum(np.concatenate([own[1:] for own in starts]) - 1, documents[0, :-1])
        documents[2] = _running_sum(-(-(documents[1, :-1] - documents[0, :-1]) // self.chunk_length))
        return documents

    def _mapped_documents(self, folder: Path) -> NDArray[np.int64]:
        """As `_documents`, of a file that is made where it is missing."""
        path = folder / f"documents-{self.fingerprint[:16]}.npy"
        if not path.is_file():
            documents = self._documents()
            with suppress(OSError), atomic_write(path) as file:
                np.save(file, documents)
            if not path.is_file():
                return documents
        return np.asarray(np.load(path, mmap_mode="r"))

    def _start(self, ids: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._document_start[documents] + (ids - self._first_chunk[documents]) * self.chunk_length

    def _gather(self, ids: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Up to `width` tokens from each chunk's start to its document's end: (..., width) tokens and mask."""
        shape = ids.shape
        ids = ids.reshape(-1)
        documents = self.documents(ids)
        start = self._start(ids, documents)
        column = np.arange(width)
        mask = column < (self._document_end[documents] - start)[:, None]  # (n, width)
        if len(self.stores) == 1:
            tokens = _rows(self._streams[0], start, column)
        else:
            tokens = np.empty((len(ids), width), dtype=np.int64)
            store = np.searchsorted(self._first_document, documents, side="right") - 1
            for number in np.unique(store):
                rows = store == number
                tokens[rows] = _rows(self._streams[number], start[rows], column)
        if not mask.all():
            np.copyto(tokens, PAD, where=~mask)
        return tokens.reshape(*shape, width), mask.reshape(*shape, width)


def _rows(stream: NDArray, start: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """stream[start + column] as (n, width) int64; beyond the stream's end its last token, for the caller to mask."""
    return stream.take(start[:, None] + column, mode="clip").astype(np.int64)


def _running_sum(counts: ArrayLike) -> NDArray[np.int64]:
    """[0, c0, c0 + c1, ...]: one more than there are counts."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
