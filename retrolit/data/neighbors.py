"""Neighbors of samples: for every chunk of a batch, what was retrieved for it in the stream it is cut from.

A sample starts at a multiple of M, so its chunks are chunks of the stream, and their saved neighbors are found by the
sample's place alone, whatever its length, batch, worker or epoch:

    T = 8, M = 4, a sample from stream token 12 on: the neighbors of stream chunks 3 and 4

B samples, T tokens, M tokens of a chunk, L chunks of a sample, K neighbors of a chunk, R tokens of a neighbor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retrolit.data.batch import Batch
from retrolit.retrieval import PreparedRetriever

Place = tuple[int, int]
"""Of a sample: the number of its stream, and the stream token it starts at."""


class SampleNeighbors:
    """The first K saved neighbors of every chunk, without those from any document that is present in the sample.

    Fewer than K are masked, never invented.

    Args:
        retrievers: That of each stream.
        num_neighbors: K.
        random_seed: When given, chunks get the neighbors of random chunks of their stream: a control that shows
            whether a model makes use of what was retrieved.

    Raises:
        ValueError: a stream's table saves less than K neighbors.
    """

    def __init__(
        self, retrievers: Sequence[PreparedRetriever], num_neighbors: int, random_seed: int | None = None
    ) -> None:
        for retriever in retrievers:
            retriever.check_saved(num_neighbors)
        self.retrievers = retrievers
        self.num_neighbors = num_neighbors
        self.random_seed = random_seed

    def add_to(self, batch: Batch, places: Sequence[Place]) -> Batch:
        """The batch, its neighbors filled in; `places` are those of its samples."""
        batch.neighbor_tokens, batch.neighbor_mask = self(places, batch.tokens.shape[1])
        return batch

    def __call__(self, places: Sequence[Place], sequence_length: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, K, R) int64 and mask (B, L, K, R) bool of samples of T tokens at these places."""
        stream, start = np.asarray(places, dtype=np.int64).reshape(-1, 2).T  # (B,), (B,)
        present = np.unique(stream).tolist()
        if len(present) == 1:
            return self._of_stream(present[0], start, sequence_length)
        parts = {number: self._of_stream(number, start[stream == number], sequence_length) for number in present}
        order = torch.from_numpy(np.argsort(np.argsort(stream, kind="stable")))  # from stream by stream to as they came
        tokens, mask = (torch.cat(part)[order] for part in zip(*parts.values(), strict=True))
        return tokens, mask

    def _of_stream(self, stream: int, start: np.ndarray, sequence_length: int) -> tuple[Tensor, Tensor]:
        retriever = self.retrievers[stream]
        num_chunks = sequence_length // retriever.chunk_length
        chunks = None
        if self.random_seed is not None:
            seeds = [(self.random_seed, stream, place) for place in start.tolist()]
            size = max(1, len(retriever.table))
            chunks = np.stack([np.random.default_rng(seed).integers(size, size=num_chunks) for seed in seeds])  # (B, L)
        _, tokens, mask = retriever.samples(retriever.chunk_of(start), num_chunks, self.num_neighbors, chunks)
        return torch.from_numpy(tokens), torch.from_numpy(mask)
