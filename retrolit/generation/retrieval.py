"""Retrieval while text is written: whenever tokens complete a chunk, neighbors are sought, and read from there on.

B rows (texts), S chunks completed at a time, M tokens of a chunk, K neighbors of a chunk, R tokens of a neighbor. The
picture, for a prompt of 10 tokens and M = 4; the chunks are counted back from the prompt's end, the first may be short:

    tokens              a b | c d e f | g h i j | k l m n | o ...
    read with j:   neighbors of ab, cdef and ghij, sought together      n: neighbors of klmn

With a stride s < M, chunks end every s new tokens, and each is still the last M tokens: ijkl and klmn for s = 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retrolit.generation.reading import Reading
from retrolit.models import Retro, RetroCache
from retrolit.retrieval import ExcludingRetriever, LiveRetriever, Neighbors, Retriever
from retrolit.tokens import Tokenizer


@dataclass
class Retrieved:
    """One neighbor, and where it is from."""

    id: int
    """The chunk's number in the database."""

    distance: float
    """From the chunk it was retrieved for, as the retriever measures it."""

    source: str
    """Document and place, for people."""

    text: str
    """The chunk and its continuation, as far as the model reads it."""


@dataclass
class ChunkNeighbors:
    """What was retrieved for one chunk of a text."""

    start: int
    """The chunk is the tokens start .. end - 1 of the text, its prompt counted in."""

    end: int
    """Token end - 1 is the first that reads the neighbors."""

    neighbors: list[Retrieved]
    """The nearest first; none where nothing was found."""


@dataclass
class RetrievalSettings:
    """How neighbors are sought and read."""

    retriever: Retriever
    """Where they come from."""

    num_neighbors: int | None = None
    """Neighbors of a chunk (K); as many as the model was trained with when not given."""

    stride: int | None = None
    """New tokens after which neighbors are sought for the last M tokens; M when not given."""

    gate: float = 1.0
    """Scales what neighbors add to the text. With 0 nothing is retrieved, and the decoder writes alone."""

    def check(self, model: Retro, tokenizer: Tokenizer) -> None:
        """Raises ValueError where retriever, model and tokenizer do not fit together or a setting is impossible."""
        expected, got = model.config.chunk_length, self.retriever.chunk_length
        if expected != got:
            raise ValueError(
                f"retriever: expected chunks of {expected} tokens, the model's chunk_length, got an index of chunks of "
                f"{got}; prepare one with retrieval.chunk_length: {expected} in the data.yaml"
            )
        source = self.retriever.retriever if isinstance(self.retriever, ExcludingRetriever) else self.retriever
        if isinstance(source, LiveRetriever) and source.tokenizer.fingerprint != tokenizer.fingerprint:
            raise ValueError(
                f"retriever: {source.folder} holds tokens of another tokenizer than the model's; prepare an "
                "index with the model's tokenizer (tokens.tokenizer in the data.yaml: type file, path the model folder)"
            )
        if self.num_neighbors is not None and self.num_neighbors < 1:
            raise ValueError(f"num_neighbors: expected at least 1, got {self.num_neighbors}; for none, gate 0")
        if self.stride is not None and not 1 <= self.stride <= expected:
            raise ValueError(
                f"retrieval_stride: expected 1 to {expected} tokens (the model's chunk_length), got {self.stride}"
            )


class RetrievingReading(Reading):
    """A Retro reading texts and, as chunks are completed, their neighbors.

    `found` has a list a row, which gets what is retrieved for the row's chunks.
    """

    def __init__(
        self, model: Retro, settings: RetrievalSettings, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]],
        max_new_tokens: int, found: list[list[ChunkNeighbors]],
    ) -> None:  # fmt: skip
        self.retro = model
        self.settings = settings
        self.tokenizer = tokenizer
        self.found = found
        super().__init__(model.decoder, prompts, max_new_tokens)
        self.columns = np.zeros((len(prompts), self.cache.max_length), dtype=np.int64)  # all tokens read so far
        self.first: list[int] = self.padding.tolist()  # the column of each row's first token

    def make_cache(self, room: int) -> RetroCache:
        weight = self.model.embedding.weight
        batch, length = self.prompt.shape
        return RetroCache(
            self.retro.config, batch, room, length, self.padding, retrieval_stride=self.settings.stride,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip

    def read(self, tokens: Tensor) -> Tensor:
        assert isinstance(self.cache, RetroCache)
        start, device = self.cache.length, self.model.embedding.weight.device
        chunks = self.cache.ending_chunks(tokens.shape[1])
        self.columns[:, start : start + tokens.shape[1]] = tokens.cpu().numpy()
        neighbor_tokens = neighbor_mask = None
        if chunks:
            neighbors = self.seek(chunks)
            shape = (len(tokens), len(chunks), *neighbors.mask.shape[1:])  # (B, S, K, R)
            if neighbors.mask.any():
                neighbor_tokens = torch.from_numpy(neighbors.tokens.reshape(shape)).to(device)
            if not neighbors.mask.all():  # attention without a mask is faster
                neighbor_mask = torch.from_numpy(neighbors.mask.reshape(shape)).to(device)
        return self.retro.hidden_states(
            tokens.to(device), neighbor_tokens, neighbor_mask, self.settings.gate, cache=self.cache
        )

    def seek(self, chunks: Sequence[tuple[int, int]]) -> Neighbors:
        """Neighbors of the chunks (start, end) of every row, row after row: (B S, K, R)."""
        queries = [(row, max(start, first), end) for row, first in enumerate(self.first) for start, end in chunks]
        tokens = np.zeros((len(queries), self.retro.config.chunk_length), dtype=np.int64)
        lengths = np.zeros(len(queries), dtype=np.int64)
        for query, (row, start, end) in enumerate(queries):
            chunk = self.columns[row, start:end]
            # In training, too, neighbors are looked up for chunks without the ends of documents in them.
            chunk = chunk[chunk != self.tokenizer.eod_id]
            lengths[query] = len(chunk)
            tokens[query, : len(chunk)] = chunk
        k = self.settings.num_neighbors or self.retro.config.num_neighbors
        neighbors = self.settings.retriever.retrieve(tokens, lengths, k)
        for query, (row, start, end) in enumerate(queries):
            if start < end:  # otherwise the chunk lies in the row's padding
                first = self.first[row]
                self.found[row].append(ChunkNeighbors(start - first, end - first, self.retrieved(neighbors, query)))
        return neighbors

    def retrieved(self, neighbors: Neighbors, query: int) -> list[Retrieved]:
        """The neighbors of one chunk, for people."""
        found = []
        for rank in np.flatnonzero(neighbors.ids[query] >= 0):
            id, tokens = int(neighbors.ids[query, rank]), neighbors.tokens[query, rank][neighbors.mask[query, rank]]
            source, text = self.settings.retriever.source(id), self.tokenizer.decode(tokens.tolist())
            found.append(Retrieved(id, float(neighbors.distances[query, rank]), source, text))
        return found

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        kept = rows.tolist()
        self.columns = self.columns[kept]
        self.first = [self.first[row] for row in kept]
        self.found = [self.found[row] for row in kept]
