"""An index that new documents are added to: what has to agree, and what is taken over from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrolit.retrieval.chunks import ChunkDatabase
from retrolit.retrieval.index import Index
from retrolit.retrieval.retriever import RETRIEVER_FILE
from retrolit.storage import read_json
from retrolit.tokens import TokenStore


class EarlierIndex:
    """The index in `folder`, whose database is the beginning of `database`.

    Attributes:
        index: what is extended.
        embedder, embeddings: the folders of what it was made with.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: its chunks are of another length, or its stores are not the first ones of `database`.
    """

    def __init__(self, folder: str, database: ChunkDatabase) -> None:
        if not (Path(folder) / RETRIEVER_FILE).is_file():
            raise FileNotFoundError(
                f"RetrievalConfig.extends: expected an index folder with {RETRIEVER_FILE}, got {folder}"
            )
        parts = read_json(Path(folder) / RETRIEVER_FILE)
        if parts["chunk_length"] != database.chunk_length:
            raise ValueError(
                f"RetrievalConfig.extends: chunk_length: {folder} was made with {parts['chunk_length']}, this run asks "
                f"for {database.chunk_length}"
            )
        stores = [TokenStore(Path(folder) / prefix) for prefix in parts["stores"]]
        for number, (old, new) in enumerate(zip(stores, [*database.stores, *[None] * len(stores)], strict=False)):
            if new is None or not _begins_with(new, old, grown=number == len(stores) - 1):
                raise ValueError(
                    f"RetrievalConfig.extends: the database of {folder} is not the beginning of this one: {old.prefix} "
                    f"is not its store {number}; put new corpora, and new documents, after the old ones"
                )
        self.index = Index(folder)
        self.embedder = Path(folder) / parts["embedder"]
        self.embeddings = Path(folder) / parts["embeddings"]


def _begins_with(store: TokenStore, old: TokenStore, grown: bool) -> bool:
    """Whether a store is another one, or, if it may have grown, begins with all of its documents."""
    if store.fingerprint == old.fingerprint:
        return True
    return (
        grown
        and len(store) >= len(old)
        and np.array_equal(store.document_starts[: len(old) + 1], old.document_starts)
        and np.array_equal(store.tokens[: old.num_tokens], old.tokens)
    )
