"""How much of an evaluation text stands in its neighbors, word for word.

Retrieval helps most where the text, or something close to it, is in the database. A single mean does not tell a model
that copies duplicates from one that learns from its neighbors, so the mean is taken apart in two ways:

    overlap of a chunk   its longest run of tokens that one of its 10 nearest neighbors (chunk and continuation) holds,
                         over its length: 0 is never seen, 1 is seen whole (RETRO, section 2.6)
    run of a token       how many tokens that end with this one stand together in a neighbor that the model read when it
                         predicted it: 0 is a token that occurs in none of them, 8 is the eighth of eight in a row

    read neighbor   the cat sat on the mat
    text            a  cat sat on a  log
    runs            0  1   2   3  0  0     and were that a whole chunk: an overlap of 3 / 6

Legend: n rows, T tokens, K neighbors, R tokens of a neighbor; B samples, L chunks of a sample, M tokens of a chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.data.batch import Batch
    from retrolit.retrieval import PreparedRetriever

NUM_NEIGHBORS = 10
"""Neighbors of a chunk that its overlap is taken with, as in RETRO; fewer where fewer are saved."""

NOTHING_TO_READ = -1
"""The run of a token that was predicted without any neighbor."""

BLOCK_CHUNKS = 1024


def shared_runs(tokens: Tensor, mask: Tensor, neighbors: Tensor, neighbor_mask: Tensor) -> Tensor:
    """For each of tokens (n, T): the length of the longest run of tokens that ends there and stands in one of the row's
    neighbors (n, K, R): int16 (n, T). Masks of the same shapes are True on a token."""
    runs = torch.zeros(tokens.shape, dtype=torch.int16, device=tokens.device)
    ending = torch.zeros(neighbors.shape, dtype=torch.int16, device=tokens.device)  # here, at each neighbor's token
    for column in range(tokens.shape[1]):
        there = neighbor_mask & mask[:, column, None, None]
        ending = (F.pad(ending[..., :-1], (1, 0)) + 1) * (there & (neighbors == tokens[:, column, None, None]))
        runs[:, column] = ending.amax(dim=(1, 2))
    return runs


def chunk_overlap(retriever: PreparedRetriever, num_neighbors: int = NUM_NEIGHBORS) -> NDArray[np.float32]:
    """The overlap of each chunk of a retriever with its saved neighbors: (chunks,), NaN for a chunk without text."""
    chunks, table = retriever.chunks, retriever.table
    overlap = np.empty(len(table), dtype=np.float32)
    for start in range(0, len(table), BLOCK_CHUNKS):
        end = min(start + BLOCK_CHUNKS, len(table))
        tokens, lengths = chunks.tokens(start, end)  # (n, M), (n,)
        ids = table[np.arange(start, end)][:, :num_neighbors]
        neighbors = retriever.database.neighbor_tokens(ids, num_retrieved_chunks=2)  # up to 128 tokens, in RETRO
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        runs = shared_runs(*map(torch.from_numpy, (tokens, mask, *neighbors)))
        with np.errstate(invalid="ignore"):
            overlap[start:end] = runs.amax(dim=1).numpy() / lengths
    return overlap


def label_runs(batch: Batch, chunk_length: int) -> Tensor:
    """The run of every label of a batch with the neighbors read for it: int16 (B, T).

    The label after position i is predicted with the neighbors of chunk (i + 1) // M - 1, so a chunk's labels are taken
    with those of the chunk before it, whose own tokens may begin a run. NOTHING_TO_READ where there are none.
    """
    assert batch.neighbor_tokens is not None
    assert batch.neighbor_mask is not None
    neighbors, neighbor_mask = batch.neighbor_tokens.flatten(0, 1), batch.neighbor_mask.flatten(0, 1)  # (B L, K, R)
    length = batch.tokens.shape[1]
    stream = torch.cat([batch.tokens, batch.labels[:, -1:]], dim=1)  # (B, T + 1)
    stream = F.pad(stream, (0, chunk_length - 1), value=-1)  # the last chunk predicts one label in the sample
    spans = stream.unfold(1, 2 * chunk_length, chunk_length).flatten(0, 1)  # (B L, 2 M): a chunk and its labels
    runs = shared_runs(spans, spans >= 0, neighbors, neighbor_mask)[:, chunk_length:]  # (B L, M)
    runs = runs.masked_fill(~neighbor_mask.flatten(1).any(dim=1, keepdim=True), NOTHING_TO_READ)
    runs = runs.view(len(batch.tokens), -1)  # (B, L M): of stream tokens M to T + M - 1
    before = runs.new_full((len(runs), chunk_length - 1), NOTHING_TO_READ)
    return torch.cat([before, runs], dim=1)[:, :length]
