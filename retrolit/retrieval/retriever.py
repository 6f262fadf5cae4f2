"""Retrievers: chunks in, neighbors out; the live one, the one that reads a table, and one for tests look the same.

Legend: n chunks, M tokens a chunk, K neighbors, R retrieved tokens; B samples, L chunks of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from retrolit.retrieval.chunks import PAD, ChunkDatabase
from retrolit.retrieval.embedder import load_embedder
from retrolit.retrieval.index import Index
from retrolit.retrieval.neighbors import NeighborTable, keep_first
from retrolit.retrieval.stream_chunks import StreamChunks
from retrolit.storage import read_json
from retrolit.tokens import Tokenizer, TokenStore, load_tokenizer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from retrolit.retrieval.document_chunks import DocumentChunks

RETRIEVER_FILE = "retriever.json"
"""Beside an index: where its tokenizer, embedder and token stores lie, relative to it."""


@dataclass(frozen=True)
class Neighbors:
    """What was retrieved, the nearest first."""

    ids: NDArray[np.int64]
    """(n, K): chunk ids, -1 where there is no neighbor."""
    distances: NDArray[np.float32]
    """(n, K): 1 - cosine, infinite where there is no neighbor."""
    tokens: NDArray[np.int64]
    """(n, K, R): each neighbor and its continuation."""
    mask: NDArray[np.bool_]
    """(n, K, R): True on a token, False on padding."""


class Retriever(Protocol):
    """What models, evaluation and generation ask for neighbors."""

    @property
    def chunk_length(self) -> int:
        """M: tokens of a chunk, in the database and in what is asked for."""
        ...

    def retrieve(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], k: int, chunks: ArrayLike | None = None
    ) -> Neighbors:
        """K = k neighbors of chunks: tokens (n, M) of which the first lengths (n,) of each row count.

        `chunks` (n,): their numbers in the stream they are from, for a retriever that looks neighbors up by them.
        """
        ...

    def source(self, id: int) -> str:
        """Where a neighbor is from, for people."""
        ...


class LiveRetriever:
    """Embeds what is asked for and searches the index; many threads may ask at once.

    Args:
        folder: an index made by `retrolit prepare`, or a prepared folder with one index.
        num_retrieved_chunks: chunks of a neighbor: itself, and its continuation.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: there are several, or what belongs to it is damaged or not what it was made with.
    """

    def __init__(self, folder: str | Path, num_retrieved_chunks: int = 2) -> None:
        self.folder = find_index(folder)
        self.index = Index(self.folder)
        parts = read_json(self.folder / RETRIEVER_FILE)
        self.tokenizer: Tokenizer = load_tokenizer(self.folder / parts["tokenizer"])
        self.embedder = load_embedder(self.folder / parts["embedder"], self.tokenizer)
        self.database = ChunkDatabase(
            [TokenStore(self.folder / prefix) for prefix in parts["stores"]], parts["chunk_length"]
        )
        self.num_retrieved_chunks = num_retrieved_chunks
        for name, expected, got in (
            ("embedder", parts["embedder_fingerprint"], self.embedder.fingerprint),
            ("chunks", parts["chunks"], len(self.database)),
            ("vectors", len(self.index), len(self.database)),
        ):
            if expected != got:
                raise ValueError(
                    f"{self.folder}: {name}: the index was made with {expected}, there is {got} now; make it again "
                    f"with: retrolit prepare -c data.yaml"
                )

    @property
    def chunk_length(self) -> int:
        return self.database.chunk_length

    def retrieve(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], k: int, chunks: ArrayLike | None = None
    ) -> Neighbors:
        """See Retriever; `chunks` makes no difference."""
        return self._search(self.embedder.embed(tokens, lengths), k)

    def retrieve_text(self, texts: Sequence[str], k: int) -> Neighbors:
        """Neighbors of texts instead of chunks."""
        return self._search(self.embedder.embed_text(texts), k)

    def source(self, id: int) -> str:
        return self.database.source(id)

    def _search(self, queries: NDArray[np.float32], k: int) -> Neighbors:
        distances, ids = self.index.search(queries, k)
        nothing = ~queries.any(axis=1)  # a chunk without a word resembles none
        ids[nothing], distances[nothing] = -1, np.inf
        return Neighbors(ids, distances, *self.database.neighbor_tokens(ids, self.num_retrieved_chunks))


class PreparedRetriever:
    """Reads the neighbors of one store's stream from its table.

    Raises:
        FileNotFoundError, ValueError: there is no such table, or it was made for another store or database.
    """

    def __init__(
        self, table: str | Path, store: TokenStore, database: ChunkDatabase, num_retrieved_chunks: int = 2
    ) -> None:
        self.table = NeighborTable(table)
        self.table.check(store, database)
        self.store = store
        self.database = database
        self.num_retrieved_chunks = num_retrieved_chunks
        self.chunks: StreamChunks | DocumentChunks = StreamChunks(store, database.chunk_length)
        """What neighbors are saved for."""
        self._offset = database.offset_of(store)

    def __reduce__(self) -> tuple:
        """Another process opens the files itself."""
        return PreparedRetriever, (self.table.folder, self.store, self.database, self.num_retrieved_chunks)

    @property
    def chunk_length(self) -> int:
        return self.database.chunk_length

    def retrieve(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], k: int, chunks: ArrayLike | None = None
    ) -> Neighbors:
        """See Retriever; `chunks` is needed, tokens make no difference."""
        if chunks is None:
            raise ValueError("PreparedRetriever.retrieve: expected the chunks' numbers in the stream, got none")
        self.check_saved(k)
        ids, distances = self.table[chunks][:, :k], self.table.distances(chunks)[:, :k]
        return Neighbors(ids, distances, *self.database.neighbor_tokens(ids, self.num_retrieved_chunks))

    def samples(
        self, first: ArrayLike, num_chunks: int, k: int, chunks: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Neighbors of samples of L chunks that start at the stream chunks `first` (B,): ids (B, L, K), tokens and mask
        (B, L, K, R).

        Neighbors from any document of the sample are left out too: one chunk's neighbor would be another's text. A
        chunk past the stream's end has none. `chunks` (B, L): take the neighbors of these instead, for a control.
        """
        self.check_saved(k)
        first = np.asarray(first, dtype=np.int64)
        chunks = first[:, None] + np.arange(num_chunks) if chunks is None else np.asarray(chunks)  # (B, L)
        there = chunks < len(self.table)
        ids = np.full((*chunks.shape, self.table.num_saved), -1, dtype=np.int64)  # (B, L, S)
        ids[there] = self.table[chunks[there]]
        drop = ids < 0
        if self._offset is not None:
            # The last label is the first token after the sample.
            assert isinstance(self.chunks, StreamChunks)
            lowest, highest = self.chunks.documents_between(first, first + num_chunks)
            begin = self.database.first_chunk(self._offset + lowest)[:, None, None]
            end = self.database.first_chunk(self._offset + highest + 1)[:, None, None]
            drop |= (ids >= begin) & (ids < end)
        kept, dropped = keep_first(drop, k, ids, drop)
        kept = np.where(dropped, -1, kept)
        return kept, *self.database.neighbor_tokens(kept, self.num_retrieved_chunks)

    def chunk_of(self, position: ArrayLike) -> NDArray[np.int64]:
        """Numbers of the chunks that stream tokens are in, same shape; the number of chunks for one past the end."""
        position = np.asarray(position, dtype=np.int64)
        return np.where(position < self.store.num_tokens, position // self.chunk_length, len(self.table))

    def source(self, id: int) -> str:
        return self.database.source(id)

    def check_saved(self, k: int) -> None:
        """Raises ValueError where the table holds less than k neighbors of a chunk."""
        if k > self.table.num_saved:
            raise ValueError(
                f"{self.table.folder}: num_saved: the table holds {self.table.num_saved} neighbors a chunk, this run "
                f"asks for {k}; make another with retrieval.neighbors.num_saved: {k} in the data.yaml"
            )


class DictionaryRetriever:
    """Neighbors from a dictionary, for tests and demonstrations.

        retriever = DictionaryRetriever({(1, 2, 3, 4): [[5, 6, 7, 8, 9]]}, chunk_length=4)
        retriever.retrieve(tokens, lengths, k=2)

    Keys are the tokens of a chunk, values its neighbors' tokens, at most num_retrieved_chunks x chunk_length each. A
    chunk that is no key has no neighbors.
    """

    def __init__(
        self,
        neighbors: Mapping[tuple[int, ...], Sequence[Sequence[int]]],
        chunk_length: int = 64,
        num_retrieved_chunks: int = 2,
    ) -> None:
        self.chunk_length = chunk_length
        self._width = num_retrieved_chunks * chunk_length
        self._ids: dict[tuple[int, ...], list[int]] = {}
        self._texts: list[Sequence[int]] = []
        for chunk, texts in neighbors.items():
            self._ids[tuple(chunk)] = list(range(len(self._texts), len(self._texts) + len(texts)))
            self._texts += texts

    def retrieve(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], k: int, chunks: ArrayLike | None = None
    ) -> Neighbors:
        """See Retriever; the distance of the neighbor at rank i is i."""
        ids = np.full((len(tokens), k), -1, dtype=np.int64)
        texts = np.full((*ids.shape, self._width), PAD, dtype=np.int64)
        mask = np.zeros(texts.shape, dtype=np.bool_)
        for row, (chunk, length) in enumerate(zip(np.asarray(tokens), np.asarray(lengths), strict=True)):
            for rank, id in enumerate(self._ids.get(tuple(chunk[:length].tolist()), [])[:k]):
                text = self._texts[id]
                ids[row, rank] = id
                texts[row, rank, : len(text)], mask[row, rank, : len(text)] = text, True
        distances = np.where(ids < 0, np.inf, np.arange(k)).astype(np.float32)
        return Neighbors(ids, distances, texts, mask)

    def source(self, id: int) -> str:
        return f"dictionary, neighbor {id}"


def find_index(folder: str | Path) -> Path:
    """The index folder that `folder` means: itself, or the one in a prepared folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    folder = Path(folder)
    if (folder / RETRIEVER_FILE).is_file():
        return folder
    found = sorted(path.parent for path in folder.glob(f"retrieval/index-*/{RETRIEVER_FILE}"))
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected an index folder (with {RETRIEVER_FILE}), or a prepared folder with one in retrieval/, "
            f"got neither; make one with: retrolit prepare -c data.yaml, with a `retrieval:` part in it"
        )
    if len(found) > 1:
        raise ValueError(f"{folder}: holds several indexes, name one of them: {', '.join(map(str, found))}")
    return found[0]
