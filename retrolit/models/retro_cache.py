"""What generation with retrieval remembers: keys and values of the tokens, the last chunk's activations, and what every
Retro layer reads of the neighbors now in force.

B rows (batch), M tokens of a chunk, D width. Columns, padding and positions are as in `KVCache`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrolit.models.cache import KVCache
from retrolit.models.chunk_grid import ChunkGrid
from retrolit.models.cross_attention import ChunkMemory
from retrolit.models.retro_config import RetroConfig


class RetroCache(KVCache):
    """The memory of a generation with neighbors. The chunk grid is anchored where the prompt ends and stays there:

        cache = RetroCache(model.config, batch_size, max_length, prompt_length=prompt.shape[1])
        new = prompt
        while True:
            chunks = cache.ending_chunks(new.shape[1])
            neighbors = retrieve([tokens[:, start:end] for start, end in chunks]) if chunks else None  # (B, S, K, R)
            logits = model(new, neighbors, cache=cache)
            new = sample(logits[:, -1:])

    Neighbors are passed along with the token that completes their chunk, and are read from that token on. A chunk that
    is completed without any leaves nothing to read until the next one.
    """

    def __init__(
        self,
        config: RetroConfig,
        batch_size: int,
        max_length: int,
        prompt_length: int,
        left_padding: Tensor | None = None,
        *,
        chunk_length: int | None = None,
        retrieval_stride: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`chunk_length` M is the config's when not given; `retrieval_stride`, at most M and M when not given, is how
        many new tokens make the last M tokens a chunk again. Raises ValueError where these are impossible."""
        super().__init__(config.decoder, batch_size, max_length, left_padding, device=device, dtype=dtype)
        chunk_length = chunk_length or config.chunk_length
        stride = retrieval_stride or chunk_length
        if not 1 <= stride <= chunk_length:
            raise ValueError(
                f"retrieval_stride: expected 1 to chunk_length ({chunk_length}) tokens, got {stride}; "
                "neighbors are sought for whole chunks, at the latest when one is complete"
            )
        self.grid = ChunkGrid(chunk_length, prompt_length, stride)
        self.context: Tensor | None = None
        """(B, M - 1, D): what the encoder reads of the last M - 1 columns; zeros where there are none yet."""
        self.memories: dict[int, ChunkMemory] = {}
        """Of every Retro layer, by its number: the chunk read now, S = 1. None before the first chunk's end, nor while
        the last chunk had no neighbors."""

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these, as `KVCache.keep`, and what they read of their neighbors."""
        super().keep(rows)
        if self.context is not None:
            self.context = self.context[rows]
        self.memories = {number: memory.of_rows(rows) for number, memory in self.memories.items()}

    def ending_chunks(self, num_new: int) -> list[tuple[int, int]]:
        """The chunks that the next `num_new` columns complete, as (start, end) columns; neighbors are wanted for them.

        A chunk at the sequence's beginning may be short, and with left padding begin in a row's padding.
        """
        ends = self.grid.ends(self.length, self.length + num_new)
        return [(max(0, end - self.grid.chunk_length), end) for end in ends]
