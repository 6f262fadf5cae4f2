"""The neighbors that helped a model most, and those that misled it most: a few chunks of a split, to be read by people.

A chunk's tokens are predicted with the neighbors of the chunk before it. What they saved is the sum, over its tokens,
of the loss without neighbors less the loss with them.

    chunk before    the river runs past the copper      what was looked up
    its neighbors   ... the copper mill and the bridge  what was read
    chunk           mill and the granite bridge         what they saved: bits

Legend: N tokens of all stores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.retrieval import PreparedRetriever
    from retrolit.tokens import Tokenizer

NUMBER = 3
"""Examples of either kind."""


def neighbor_examples(
    saved: NDArray[np.float32],
    retrievers: Sequence[PreparedRetriever],
    tokenizer: Tokenizer,
    num_neighbors: int,
    number: int = NUMBER,
) -> dict[str, list[dict[str, Any]]]:
    """{"best": [...], "worst": [...]}, in JSON's types; fewer where fewer chunks gained or lost anything.

    Args:
        saved: Nats that the neighbors saved on each token (N,), one store after another; NaN where nothing predicts it.
        retrievers: Those of the stores, in the same order.
        tokenizer: Theirs.
        num_neighbors: How many of a chunk's neighbors were read.
        number: Examples of either kind.
    """
    found: list[tuple[float, PreparedRetriever, int]] = []
    begin = 0
    for retriever in retrievers:
        own = np.nan_to_num(saved[begin : begin + retriever.store.num_tokens])
        begin += len(own)
        chunk_of = retriever.chunk_of(np.arange(len(own)))
        bits = np.bincount(chunk_of, own, minlength=len(retriever.table)) / math.log(2)
        order = np.argsort(bits)
        chosen = {*order[:number].tolist(), *order[-number:].tolist()} - {0}  # before the first there is none
        found += [(float(bits[chunk]), retriever, chunk) for chunk in chosen]
    found.sort(key=lambda example: example[0], reverse=True)
    best = [example for example in found if example[0] > 0][:number]
    worst = [example for example in found[::-1] if example[0] < 0][:number]
    return {
        name: [_describe(*example, tokenizer, num_neighbors) for example in examples]
        for name, examples in (("best", best), ("worst", worst))
    }


def _describe(
    bits: float, retriever: PreparedRetriever, chunk: int, tokenizer: Tokenizer, num_neighbors: int
) -> dict[str, Any]:
    before = chunk - 1
    ids, tokens, mask = (found[0, 0] for found in retriever.samples([before], 1, num_neighbors))
    saved, distances = retriever.table[before], retriever.table.distances(before)
    length = retriever.chunk_length
    texts = [_text(retriever, number, tokenizer) for number in (before, chunk)]
    document = int(retriever.chunks.documents(chunk, chunk + 1)[0][0])
    return {
        "bits_saved": bits,
        "chunk": chunk,
        "source": retriever.store.source(document),
        "query": texts[0],
        "text": texts[1],
        "neighbors": [
            {
                "source": retriever.source(int(id)),
                "distance": float(distances[saved == id][0]),
                "chunk": tokenizer.decode(tokens[rank, :length][mask[rank, :length]].tolist()),
                "continuation": tokenizer.decode(tokens[rank, length:][mask[rank, length:]].tolist()),
            }
            for rank, id in enumerate(ids)
            if id >= 0
        ],
    }


def _text(retriever: PreparedRetriever, chunk: int, tokenizer: Tokenizer) -> str:
    tokens, lengths = retriever.chunks.tokens(chunk, chunk + 1)
    return tokenizer.decode(tokens[0, : lengths[0]].tolist())
