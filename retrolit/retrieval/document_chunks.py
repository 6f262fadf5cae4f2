"""Neighbors for windows that begin where documents do: the same tables, of chunks that are cut inside documents.

    stream            a b c d e f.g h i j k.    (M = 4; . is the end-of-document token)
    document chunks   [a b c d] [e f] [g h i j] [k]

Training reads the chunks of the stream, whatever documents they overlap. An evaluation that keeps every window inside
its document has no use for those: its chunks are these, cut as the database's are.

Legend: n chunks, M tokens a chunk, K neighbors; B samples, L chunks of a sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrolit.retrieval.chunks import ChunkDatabase
from retrolit.retrieval.neighbors import NeighborConfig, build_neighbors, neighbor_settings
from retrolit.retrieval.retriever import LiveRetriever, PreparedRetriever
from retrolit.storage import fingerprint, lock
from retrolit.tokens.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from retrolit.tokens import TokenStore


class DocumentChunks:
    """The chunks of one store's documents, in place of StreamChunks: `len(chunks)` of them."""

    cut = "documents"

    def __init__(self, store: TokenStore, chunk_length: int) -> None:
        self.database = ChunkDatabase([store], chunk_length)

    def __len__(self) -> int:
        return len(self.database)

    def tokens(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (n, M) int64 of chunks start to end, and how many each has (n,)."""
        return self.database.tokens(np.arange(start, end))

    def documents(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The document of each of these chunks, twice: (n,) and (n,), as the first and the last it overlaps."""
        document = self.database.documents(np.arange(start, end))
        return document, document


class DocumentRetriever(PreparedRetriever):
    """Reads the neighbors of document chunks; samples begin at a multiple of M from their document's start."""

    def __init__(
        self, table: str | Path, store: TokenStore, database: ChunkDatabase, num_retrieved_chunks: int = 2
    ) -> None:
        super().__init__(table, store, database, num_retrieved_chunks)
        self.chunks = DocumentChunks(store, database.chunk_length)
        self._documents = self.chunks.database

    def __reduce__(self) -> tuple:
        return DocumentRetriever, (self.table.folder, self.store, self.database, self.num_retrieved_chunks)

    def chunk_of(self, position: ArrayLike) -> NDArray[np.int64]:
        """See PreparedRetriever; the end of a document belongs to its last chunk."""
        position, starts = np.asarray(position, dtype=np.int64), self.store.document_starts
        document = np.searchsorted(starts, position, side="right") - 1
        there = np.minimum(document, len(self.store) - 1)
        first, following = (self._documents.first_chunk(there + step) for step in (0, 1))
        chunk = np.minimum(first + (position - starts[there]) // self.chunk_length, following - 1)
        return np.where(document < len(self.store), chunk, len(self.table))

    def samples(
        self, first: ArrayLike, num_chunks: int, k: int, chunks: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """See PreparedRetriever; chunks past the end of the sample's document have no neighbors."""
        self.check_saved(k)
        first = np.asarray(first, dtype=np.int64)
        own = first[:, None] + np.arange(num_chunks)  # (B, L)
        last = max(0, len(self.table) - 1)
        documents = self._documents.documents(np.minimum(own, last))
        there = (own <= last) & (documents == documents[:, :1])
        ids = np.full((*own.shape, k), -1, dtype=np.int64)  # (B, L, K)
        ids[there] = self.table[(own if chunks is None else np.asarray(chunks))[there]][:, :k]
        return ids, *self.database.neighbor_tokens(ids, self.num_retrieved_chunks)


def document_retriever(
    prepared: PreparedRetriever, index_folder: Path, config: NeighborConfig, progress: Progress = silent
) -> DocumentRetriever:
    """That of the same store, from a table beside the one of its stream, which is made when it is missing.

    Of several processes one makes it and the others wait.
    """
    live, store = LiveRetriever(index_folder), prepared.store
    settings = neighbor_settings(config, prepared.chunk_length) | {"cut": "documents"}
    key = fingerprint([settings, live.index.fingerprint, store.fingerprint])[:12]
    name = prepared.table.folder.name.rpartition("-")[0]
    folder = prepared.table.folder.with_name(f"{name}-documents-{key}")
    with lock(folder.with_name(f".{folder.name}.lock")):
        build_neighbors(
            store,
            prepared.database,
            live.index,
            live.embedder,
            config=config,
            folder=folder,
            progress=progress,
            chunks=DocumentChunks(store, prepared.chunk_length),
        )
    return DocumentRetriever(folder, store, prepared.database, prepared.num_retrieved_chunks)
