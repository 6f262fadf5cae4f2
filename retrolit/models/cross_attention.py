"""Cross-attention, and its chunked form: tokens read what was encoded of the neighbors of one chunk after another.

N rows, B batch, T tokens, S chunks in a row, M tokens of a chunk, W tokens encoded for a chunk (its K neighbors of R
tokens), D width, E width of the context, H heads, C channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrolit.models.config import GPTConfig
from retrolit.models.copying import copying_weights
from retrolit.models.rotary import Rotation, rotate, rotate_parts


@dataclass
class ChunkMemory:
    """What one layer reads of the neighbors of S consecutive chunks."""

    keys: Tensor
    """(B, S, W, H, C)."""

    values: Tensor
    """(B, S, W, H, C)."""

    mask: Tensor | None
    """(B, S, W) bool, True where there is something to read; None where that is everywhere."""

    def last(self) -> ChunkMemory:
        """The last chunk's part alone, in memory of its own."""
        mask = None if self.mask is None else self.mask[:, -1:].clone()
        return ChunkMemory(self.keys[:, -1:].clone(), self.values[:, -1:].clone(), mask)

    def of_rows(self, rows: Tensor) -> ChunkMemory:
        """The part of these rows of the batch, (kept rows,) int64, in this order."""
        return ChunkMemory(self.keys[rows], self.values[rows], None if self.mask is None else self.mask[rows])

    def followed_by(self, other: ChunkMemory) -> ChunkMemory:
        """The chunks of both. Raises ValueError where they do not hold equally much."""
        mine, theirs = self.keys.shape[2], other.keys.shape[2]
        if mine != theirs:
            raise ValueError(
                f"neighbor_tokens: expected K x R = {mine} tokens for a chunk, as for the one before, got {theirs}"
            )
        mask = None
        if self.mask is not None or other.mask is not None:
            mask = torch.cat([self._full_mask(), other._full_mask()], dim=1)
        keys, values = torch.cat([self.keys, other.keys], dim=1), torch.cat([self.values, other.values], dim=1)
        return ChunkMemory(keys, values, mask)

    def _full_mask(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        batch, chunks, width, _, _ = self.keys.shape
        return torch.ones(batch, chunks, width, dtype=torch.bool, device=self.keys.device)


class CrossAttention(nn.Module):
    """softmax(q k / sqrt(C)) v, the queries of one sequence, keys and values of another (the context).

    `key_value` has Megatron's order of rows: for each head its key, its value, C rows each.
    """

    def __init__(self, config: GPTConfig, context_size: int, dropout: float) -> None:
        super().__init__()
        assert config.head_dim is not None
        assert config.qkv_bias is not None
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.dropout = dropout
        inner = self.num_heads * self.head_dim
        self.query = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.key_value = nn.Linear(context_size, 2 * inner, bias=config.qkv_bias)
        self.output = nn.Linear(inner, config.hidden_size, bias=config.bias)

    @torch.no_grad()
    def begin_by_copying(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights that find a token's like and say it (copying.py); the biases stay."""
        if self.query.weight.is_meta:
            return
        weights = copying_weights(self.num_heads, self.head_dim, self.query.in_features, generator)
        for part, weight in weights.items():
            self.get_parameter(f"{part}.weight").copy_(weight)

    def project(self, context: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor]:
        """Context (N, W, E) -> its keys and values, (N, W, H, C) each."""
        pairs = self.key_value(context).view(*context.shape[:2], self.num_heads, 2, self.head_dim)
        if rotation is None:
            keys, values = pairs.unbind(3)
            return keys, values
        keys, values = rotate_parts(pairs, [1, 1], 1, rotation)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (N, H, T, C), keys and values (N, W, H, C), mask bool (N, 1, 1, W) -> (N, T, H C)."""
        dropout = self.dropout if self.training else 0.0
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return found.transpose(1, 2).flatten(2)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor | None = None, rotation: Rotation | None = None,
        context_rotation: Rotation | None = None,
    ) -> Tensor:  # fmt: skip
        """x (N, T, D) reads context (N, W, E), as far as mask (N, W), bool, allows: (N, T, D). A row of the mask must
        allow something."""
        queries = self.query(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (N, H, T, C)
        if rotation is not None:
            queries = rotate(queries, rotation)
        keys, values = self.project(context, context_rotation)
        return self.output(self.attend(queries, keys, values, None if mask is None else mask[:, None, None]))

    def read_chunks(
        self, x: Tensor, memory: ChunkMemory, *, step: int, place: int, first: int = 0, rotation: Rotation | None = None
    ) -> Tensor:
        """Chunked cross-attention: the tokens of x (B, T, D) read the memory of their chunk, (B, T, D).

        Token `first` is the one at `place` of the first chunk's readers, of which there are `step`; those before it get
        exactly zero. The last token's place is in the last chunk's. `rotation` is that of all places, 0 to `step` - 1.
        A token whose chunk has nothing to read gets exactly zero too.
        """
        batch, length, _ = x.shape
        chunks = memory.keys.shape[1]
        # Rows of `step` readers, cut or filled up at both ends; the products are made of what is whole.
        front, back = place - first, chunks * step - place - (length - first)
        queries = self.query(x).unflatten(-1, (self.num_heads, self.head_dim))  # (B, T, H, C)
        if chunks > 1:
            queries = F.pad(queries, (0, 0, 0, 0, front, back)).unflatten(1, (chunks, step)).flatten(0, 1)
        else:
            queries = queries[:, first:]
            if rotation is not None:
                end = place + length - first
                rotation = (rotation[0][place:end], rotation[1][place:end])
        queries = queries.transpose(1, 2)  # (B S, H, step, C)
        if rotation is not None:
            queries = rotate(queries, rotation)
        mask = readable = None
        if memory.mask is not None:
            readable = memory.mask.any(-1)  # (B, S)
            # Where there is nothing to read, something is read and thrown away: softmax over nothing is not a number.
            mask = (memory.mask | ~readable[..., None]).flatten(0, 1)[:, None, None]  # (B S, 1, 1, W)
        found = self.attend(queries, memory.keys.flatten(0, 1), memory.values.flatten(0, 1), mask)
        found = self.output(found.unflatten(0, (batch, chunks)).flatten(1, 2))  # (B, S step, D)
        if readable is not None:
            reads = readable.repeat_interleave(step, dim=1) if chunks > 1 else readable
            found = found.masked_fill(~reads[..., None], 0)
        if chunks > 1:
            return F.pad(found, (0, 0, -front, -back))
        return F.pad(found, (0, 0, first, 0)) if first else found
