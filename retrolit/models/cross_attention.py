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
from retrolit.models.copying import PARTS, copying_weight
from retrolit.models.rotary import Rotation, rotate, rotate_parts


@dataclass
class ChunkMemory:
    """What one layer reads of the neighbors of S consecutive chunks."""

    keys: Tensor
    """(B, S, H, W, C)."""

    values: Tensor
    """(B, S, H, W, C)."""

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
        mine, theirs = self.keys.shape[3], other.keys.shape[3]
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
        batch, chunks, _, width, _ = self.keys.shape
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
        seed = int(torch.randint(2**62, (), generator=generator))
        for part in PARTS:
            drawn = torch.Generator().manual_seed(seed)
            weight = copying_weight(part, self.num_heads, self.head_dim, self.query.in_features, drawn)
            self.get_parameter(f"{part}.weight").copy_(weight)

    def project(self, context: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor]:
        """Context (N, W, E) -> its keys and values, (N, H, W, C) each."""
        pairs = self.key_value(context).view(*context.shape[:2], self.num_heads, 2, self.head_dim)
        if rotation is not None:
            keys, values = rotate_parts(pairs, [1, 1], 1, rotation)
        else:
            keys, values = (part.transpose(1, 2) for part in pairs.unbind(3))
        return keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (N, H, T, C), keys and values (N, H, W, C), mask bool (N, 1, 1, W) -> (N, T, H C)."""
        dropout = self.dropout if self.training else 0.0
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
        self, x: Tensor, memory: ChunkMemory, *, step: int, place: int, rotation: Rotation | None = None
    ) -> Tensor:
        """Chunked cross-attention: every token of x (B, T, D) reads the memory of its chunk, (B, T, D).

        The first token is the one at `place` of the first chunk's readers, of which there are `step`, and its last
        place is in the last chunk's. `rotation` is that of all places, 0 to `step` - 1. A token whose chunk has nothing
        to read gets exactly zero.
        """
        batch, length, _ = x.shape
        chunks = memory.keys.shape[1]
        queries = self.query(x).unflatten(-1, (self.num_heads, self.head_dim))  # (B, T, H, C)
        if chunks > 1:  # rows of `step` readers, filled up at both ends
            queries = F.pad(queries, (0, 0, 0, 0, place, chunks * step - place - length))
            queries = queries.unflatten(1, (chunks, step)).flatten(0, 1)  # (B S, step, H, C)
        elif rotation is not None:
            rotation = (rotation[0][place : place + length], rotation[1][place : place + length])
        queries = queries.transpose(1, 2)
        if rotation is not None:
            queries = rotate(queries, rotation)
        mask = readable = None
        if memory.mask is not None:
            readable = memory.mask.any(-1)  # (B, S)
            # Where there is nothing to read, something is read and thrown away: softmax over nothing is not a number.
            mask = (memory.mask | ~readable[..., None]).flatten(0, 1)[:, None, None]  # (B S, 1, 1, W)
        found = self.attend(queries, memory.keys.flatten(0, 1), memory.values.flatten(0, 1), mask)
        if chunks > 1:
            found = found.unflatten(0, (batch, chunks)).flatten(1, 2)[:, place : place + length]  # (B, T, H C)
        found = self.output(found)
        if readable is None:
            return found
        reads = readable.repeat_interleave(step, dim=1)[:, place : place + length] if chunks > 1 else readable
        return found.masked_fill(~reads[..., None], 0)
