"""Neighbors for conversations: the same tables, of chunks that are counted from where the last reply begins.

    conversation      a b c d e f g h i j k l m n.      (M = 4; the reply begins with k; . is the last id)
    chunks            [a b] [c d e f] [g h i j] [k l m n]

So the end of the question closes a chunk, and the reply begins with its neighbors, exactly as when the reply is written
(generation/retrieval.py). A chunk that the conversation's inputs do not fill is read by no token, and is none.

Legend: n chunks, M tokens a chunk, K neighbors; L chunks of a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrolit.retrieval.chunks import PAD, ChunkDatabase
from retrolit.retrieval.neighbors import NeighborConfig, NeighborTable, build_neighbors, neighbor_settings
from retrolit.retrieval.retriever import LiveRetriever
from retrolit.storage import fingerprint
from retrolit.storage.blocks import EVERYTHING, Share
from retrolit.tokens.prepare_conversations import ConversationStore
from retrolit.tokens.progress import Progress, silent
from retrolit.tokens.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.tokens.prepare import PreparedTokens


class ConversationChunks:
    """The chunks of one store's conversations, in place of StreamChunks: `len(chunks)` of them.

    Args:
        store: The conversations.
        chunk_length: M.
        eod_id: The id that closes a document; it is no part of what is embedded.
    """

    cut = "conversations"

    def __init__(self, store: ConversationStore, chunk_length: int, eod_id: int) -> None:
        self.chunk_length = chunk_length
        self._eod_id = eod_id
        self._stream = np.asarray(store.tokens)
        self._starts = np.asarray(store.document_starts, dtype=np.int64)
        self._padding = -store.prompt_lengths % chunk_length  # missing of each conversation's first chunk
        counts = (self._padding + np.diff(self._starts) - 1) // chunk_length
        self.first = np.append(0, np.cumsum(counts))
        """(conversations + 1,): the number of each conversation's first chunk, and at the end that of all."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def tokens(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (n, M) int64 of chunks start to end, without ends of documents, and how many each has (n,)."""
        conversation, _ = self.documents(start, end)
        place = np.arange(start, end) - self.first[conversation]
        begin = place * self.chunk_length - self._padding[conversation]
        column = begin[:, None] + np.arange(self.chunk_length)  # of the conversation
        tokens = self._stream.take(self._starts[conversation][:, None] + column, mode="clip").astype(np.int64)
        there = (column >= 0) & (tokens != self._eod_id)
        tokens = np.take_along_axis(tokens, np.argsort(~there, axis=1, kind="stable"), axis=1)
        lengths = there.sum(axis=1)
        tokens[np.arange(self.chunk_length) >= lengths[:, None]] = PAD
        return tokens, lengths

    def documents(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The conversation of each of these chunks, twice: (n,) and (n,), as the first and the last it overlaps."""
        conversation = np.searchsorted(self.first, np.arange(start, end), side="right") - 1
        return conversation, conversation


class ConversationNeighbors:
    """What is saved for the conversations of one store.

    Raises:
        FileNotFoundError, ValueError: there is no such table, or it was made for another store or database.
    """

    def __init__(self, table: str | Path, store: ConversationStore, database: ChunkDatabase, eod_id: int) -> None:
        self.table = NeighborTable(table)
        self.table.check(store, database)
        self.store = store
        self.database = database
        self._eod_id = eod_id
        self._first = ConversationChunks(store, database.chunk_length, eod_id).first

    def __reduce__(self) -> tuple:
        """Another process opens the files itself."""
        return ConversationNeighbors, (self.table.folder, self.store, self.database, self._eod_id)

    def __getitem__(self, conversation: int) -> NDArray[np.int64]:
        """Ids (L, num_saved) of the neighbors of a conversation's chunks, the nearest first, -1 where there are no
        more."""
        return self.table[np.arange(*self._first[conversation : conversation + 2])]


@dataclass
class RetrievedForConversations:
    """Where the neighbors of all conversations lie."""

    index_folder: Path
    """They were found in this index."""

    database: ChunkDatabase
    """They are chunks of it."""

    tables: dict[str, dict[str, Path]]
    """train, validation and test -> name of each corpus that has conversations there -> folder of its table."""


def retrieve_for_conversations(
    source: str | Path, num_saved: int, prepared: PreparedTokens, folder: str | Path, progress: Progress = silent,
    share: Share = EVERYTHING,
) -> RetrievedForConversations:  # fmt: skip
    """Makes in folder/retrieval/neighbors what is missing or damaged of the neighbors of `prepared` conversations, and
    opens the rest; killed and called again, it goes on where it was.

    Args:
        source: a prepared folder with an index, or the index folder, in which every chunk is sought.
        num_saved: neighbors kept for each chunk.
        prepared: the conversations.
        folder: where they lie.
        progress: is told what is done.
        share: this machine's part of the blocks; all but rank 0 wait until it has finished.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: its tokens are not those of the conversations' tokenizer.
    """
    live = LiveRetriever(source)
    tokenizer = load_tokenizer(prepared.tokenizer_folder)
    if live.tokenizer.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"conversations.retrieval: {source} holds tokens of another tokenizer than conversations.tokenizer; "
            "prepare an index with the tokenizer of the model to tune (tokens.tokenizer in its data.yaml: type file, "
            "path the model folder)"
        )
    # Nothing is left out: what is found here is what is found while a reply is written.
    config = NeighborConfig(num_saved, num_searched=num_saved, exclude_copies=False)
    settings = [neighbor_settings(config, live.chunk_length), live.index.fingerprint]
    tables: dict[str, dict[str, Path]] = {}
    for split, prefixes in prepared.stores.items():
        tables[split] = {}
        for corpus, prefix in prefixes.items():
            store = ConversationStore(prefix)
            key = fingerprint([settings, store.fingerprint])[:12]
            table = Path(folder) / "retrieval" / "neighbors" / f"{corpus}-{split}-{key}"
            build_neighbors(
                store,
                live.database,
                live.index,
                live.embedder,
                config=config,
                folder=table,
                progress=progress,
                share=share,
                chunks=ConversationChunks(store, live.chunk_length, tokenizer.eod_id),
            )
            share.wait_for(table)
            tables[split][corpus] = table
    return RetrievedForConversations(live.folder, live.database, tables)
