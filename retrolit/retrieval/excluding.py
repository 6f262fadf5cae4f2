"""A retriever that leaves out some chunks of the database, for example those of a document that is continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retrolit.retrieval.chunks import PAD
from retrolit.retrieval.neighbors import keep_first
from retrolit.retrieval.retriever import LiveRetriever, Neighbors, Retriever

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class ExcludingRetriever:
    """What another retriever finds, less the chunks that `excludes(id)` is true of; the next nearest move up.

    ExcludingRetriever(retriever, lambda id: retriever.database.documents(id) == 17)
    ExcludingRetriever(retriever, lambda id: "wiki.jsonl:17," in retriever.source(id))
    """

    def __init__(self, retriever: Retriever, excludes: Callable[[int], bool]) -> None:
        self.retriever = retriever
        self.excludes = excludes

    @property
    def chunk_length(self) -> int:
        return self.retriever.chunk_length

    def retrieve(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], k: int, chunks: ArrayLike | None = None
    ) -> Neighbors:
        """See Retriever."""
        return self._kept(lambda searched: self.retriever.retrieve(tokens, lengths, searched, chunks), k)

    def retrieve_text(self, texts: Sequence[str], k: int) -> Neighbors:
        """Neighbors of texts instead of chunks, of a retriever that finds them."""
        retriever = self.retriever
        assert isinstance(retriever, LiveRetriever)
        return self._kept(lambda searched: retriever.retrieve_text(texts, searched), k)

    def source(self, id: int) -> str:
        return self.retriever.source(id)

    def _kept(self, search: Callable[[int], Neighbors], k: int) -> Neighbors:
        """Searches on, four times as far each time, until every chunk has k or there is no more."""
        searched = 4 * k
        while True:
            found = search(searched)
            excluded = {id: self.excludes(id) for id in np.unique(found.ids[found.ids >= 0]).tolist()}
            drop = np.array([[excluded.get(id, True) for id in row] for row in found.ids.tolist()], dtype=np.bool_)
            drop = drop.reshape(found.ids.shape)
            enough = (~drop).sum(axis=1) >= k
            exhausted = found.ids[:, -1] < 0
            if (enough | exhausted).all():
                break
            searched *= 4
        rank = np.broadcast_to(np.arange(searched), drop.shape)
        kept, dropped = keep_first(drop, k, rank, drop)  # (n, K)
        row = np.arange(len(found.ids))[:, None]
        mask = found.mask[row, kept] & ~dropped[..., None]
        return Neighbors(
            np.where(dropped, -1, found.ids[row, kept]),
            np.where(dropped, np.inf, found.distances[row, kept]).astype(np.float32),
            np.where(mask, found.tokens[row, kept], PAD),
            mask,
        )
