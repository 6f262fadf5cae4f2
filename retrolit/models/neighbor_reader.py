"""Reading neighbors: what one forward pass of Retro does between the halves of its Retro layers.

B batch, T tokens, D width, M tokens of a chunk, S chunks that end within the tokens, K neighbors of a chunk, R tokens
of a neighbor, E width of the encoder. Columns are counted from the sequence's beginning, whatever a cache holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from retrolit.models.chunk_grid import ChunkGrid
from retrolit.models.cross_attention import ChunkMemory, CrossAttention
from retrolit.models.layer import TransformerLayer, recomputed
from retrolit.models.retro_cache import RetroCache
from retrolit.models.segments import PADDING

if TYPE_CHECKING:
    from retrolit.models.retro import Retro

NOBODY = PADDING - 1
"""The owner of a chunk in which several texts meet."""


class NeighborReader:
    """What one forward pass does in the Retro layers, as the step that `TransformerLayer` takes between its halves.

    In the first Retro layer it has the neighbors encoded; the later ones read the same encoding. A cache gives it what
    came before and keeps what comes after.
    """

    def __init__(
        self, retro: Retro, grid: ChunkGrid, start: int, shape: tuple[int, ...],
        neighbors: tuple[Tensor, Tensor | None] | None, *, gate: float, cache: RetroCache | None,
        segments: Tensor | None = None,
    ) -> None:  # fmt: skip
        """For tokens of this shape (B, T), the first of them in column `start`; neighbors are tokens and mask.

        Raises ValueError where the neighbors do not fit the chunks that end within the tokens.
        """
        self.retro = retro
        # By the cross-attentions: FSDP1 puts layers into wrappers, and what runs is the layer inside.
        self.numbers = {layer.cross_attention: number for number, layer in retro.retro_layers.items()}
        self.grid = grid
        self.start, self.stop = start, start + shape[1]
        self.ends = grid.ends(self.start, self.stop)
        self.cache = cache
        self.segments = segments
        if neighbors is not None:
            _check_neighbors(*neighbors, shape, len(self.ends), grid.chunk_length)
        self.neighbor_tokens, self.neighbor_mask = (None, None) if neighbors is None or gate == 0 else neighbors
        self.gate = gate
        self.recompute = cache is None and retro.decoder.recomputes
        self.encoded: Tensor | None = None  # (B, S, K R, E)
        self.mask: Tensor | None = None  # (B, S, K R)

    def __call__(self, layer: TransformerLayer, x: Tensor) -> Tensor:
        assert layer.cross_attention_norm is not None
        normed = layer.cross_attention_norm(x)  # (B, T, D)
        if self.numbers[layer.cross_attention] == self.retro.config.retro_layers[0]:
            self.encode(normed)
        return (recomputed(self.read) if self.recompute else self.read)(layer, x, normed)

    def read(self, layer: TransformerLayer, x: Tensor, normed: Tensor) -> Tensor:
        """x (B, T, D) with what this layer's cross-attention finds added; `normed` is what it looks with."""
        attention, number = layer.cross_attention, self.numbers[layer.cross_attention]
        assert isinstance(attention, CrossAttention)
        # From its last token on, a new chunk is read; up to there, the one before, if there are such columns.
        turn = self.ends[0] - 1 if self.ends else self.stop
        before = None if self.cache is None or turn == self.start else self.cache.memories.get(number)
        new = None if self.encoded is None else self.project(attention, self.encoded)
        self.keep(number, new)
        memory = new if before is None else before if new is None else before.followed_by(new)
        if memory is None or self.gate == 0:
            return x
        first = turn if before is None else self.start
        last = turn if new is None else self.stop
        step, rotation = self.grid.step(self.start), None
        if self.retro.cross_rotary is not None:
            # Reader 0 is the chunk's own last token. A neighbor lies beside the chunk with its first tokens and beside
            # the readers with its continuation, so there reader i is at position M - 1 + i.
            place = self.grid.chunk_length - 1
            rotation = self.retro.cross_rotary.span(place, place + step, x.device)
        found = self.retro.read_chunks(
            attention,
            normed[:, : last - self.start],
            memory,
            step=step,
            place=self.grid.place(first),
            first=first - self.start,
            rotation=rotation,
        )
        if self.segments is not None:
            reads = F.pad(self.reads_its_own(self.segments), (first - self.start, 0))
            found = found.masked_fill(~reads[..., None], 0)
        found = layer.drop(found)
        if self.gate != 1:
            found = self.gate * found
        if found.shape[1] != x.shape[1]:
            found = F.pad(found, (0, 0, 0, self.stop - last))
        return x + found

    def reads_its_own(self, segments: Tensor) -> Tensor:
        """(B, readers) bool: whether the chunk read by a column, from the first chunk's end on, is its text's alone."""
        chunks = self.chunks_of(segments)  # (B, S, M)
        owners = chunks.amax(-1)
        several = ((chunks >= 0) & (chunks != owners[..., None])).any(-1)
        owners = owners.masked_fill(several, NOBODY).repeat_interleave(self.grid.chunk_length, dim=1)
        readers = segments[:, self.ends[0] - 1 :]
        return owners[:, : readers.shape[1]] == readers

    def chunks_of(self, segments: Tensor) -> Tensor:
        """(B, S, M): the segments of every chunk's columns, those of padding before the sequence's beginning."""
        chunk_length = self.grid.chunk_length
        known = F.pad(segments, (chunk_length - 1, 0), value=PADDING)
        return known[:, self.ends[0] - 1 :].unfold(1, chunk_length, chunk_length)

    def project(self, attention: CrossAttention, encoded: Tensor) -> ChunkMemory:
        """The keys and values that one layer makes of what was encoded."""
        assert self.neighbor_tokens is not None
        batch, chunks, neighbors, length = self.neighbor_tokens.shape
        rotation = None
        if self.retro.cross_rotary is not None:
            cos, sin = self.retro.cross_rotary.span(0, length, encoded.device)
            rotation = (cos.repeat(neighbors, 1), sin.repeat(neighbors, 1))  # the neighbors side by side
        keys, values = self.retro.project(attention, encoded.flatten(0, 1), rotation)  # (B S, K R, H, C)
        keys, values = keys.unflatten(0, (batch, chunks)), values.unflatten(0, (batch, chunks))
        if self.retro.config.shifted_keys:
            keys = self.shifted(keys, neighbors)
        return ChunkMemory(keys, values, self.mask)

    def shifted(self, keys: Tensor, neighbors: int) -> Tensor:
        """Keys (B, S, K R, H, C), each token's that of the token before it; nothing before a neighbor's first one."""
        if self.mask is not None:
            keys = keys.masked_fill(~self.mask[..., None, None], 0)
        return F.pad(keys.unflatten(2, (neighbors, -1))[:, :, :, :-1], (0, 0, 0, 0, 1, 0)).flatten(2, 3)

    def keep(self, number: int, new: ChunkMemory | None) -> None:
        """Leave the last chunk's memory to the columns to come, or nothing where a chunk ended without neighbors."""
        if self.cache is None or not self.ends:
            return
        if new is None:
            self.cache.memories.pop(number, None)
        else:
            self.cache.memories[number] = new.last()

    def encode(self, normed: Tensor) -> None:
        """Encode the neighbors beside the decoder's activations (B, T, D) of their chunks; remember the last."""
        retro, chunk_length = self.retro, self.grid.chunk_length
        padding = None if self.cache is None else self.cache.left_padding
        if padding is not None:  # to the encoder, columns before a row's first token are as those before the sequence
            columns = torch.arange(self.start, self.stop, device=normed.device)
            normed = normed.masked_fill((columns < padding[:, None])[..., None], 0)
        if self.segments is not None:
            normed = normed.masked_fill((self.segments < 0)[..., None], 0)
        if self.cache is None or self.cache.context is None:
            known = F.pad(normed, (0, 0, chunk_length - 1, 0))  # (B, M - 1 + T, D)
        else:
            known = torch.cat([self.cache.context, normed], dim=1)
        if self.cache is not None:
            self.cache.context = known[:, normed.shape[1] :].clone()
        if self.neighbor_tokens is None:
            return
        windows = known[:, self.ends[0] - 1 - self.start :].unfold(1, chunk_length, self.grid.step(self.start))
        context = windows.transpose(2, 3)  # (B, S, M, D)

        embedded = retro.decoder.embed(self.neighbor_tokens)  # (B, S, K, R, D)
        mask, context_mask = self.neighbor_mask, None
        if retro.config.mask_padding:
            context_mask = self.visible_context(padding, normed)
        elif mask is not None:
            mask = mask.any(-1, keepdim=True).expand_as(mask)
        visible = mask if retro.config.mask_padding else None
        self.encoded = retro.encoder(embedded, context, visible, context_mask, recompute=self.recompute)
        if padding is not None:  # chunks before a row's first token have no neighbors
            ends = torch.tensor(list(self.ends), device=padding.device)
            reached = (ends > padding[:, None])[..., None, None]  # (B, S, 1, 1)
            mask = reached.expand_as(self.neighbor_tokens) if mask is None else mask & reached
        self.mask = None if mask is None else mask.flatten(2)

    def visible_context(self, padding: Tensor | None, normed: Tensor) -> Tensor | None:
        """(B, S, M) bool: which columns of the chunks hold a token; None where all do."""
        if self.segments is not None:
            return self.chunks_of(self.segments) >= 0
        chunk_length = self.grid.chunk_length
        if padding is None and self.ends[0] >= chunk_length:
            return None
        ends = torch.tensor(list(self.ends), device=normed.device)[:, None]
        columns = ends - chunk_length + torch.arange(chunk_length, device=normed.device)  # (S, M)
        first = 0 if padding is None else padding[:, None, None]
        return (columns >= first).expand(normed.shape[0], -1, -1)


def _check_neighbors(
    tokens: Tensor, mask: Tensor | None, shape: tuple[int, ...], num_chunks: int, chunk_length: int
) -> None:
    batch, length = shape
    if tokens.dim() != 4 or tokens.shape[:2] != (batch, num_chunks):
        raise ValueError(
            f"neighbor_tokens: expected shape ({batch}, {num_chunks}, K, R), because {num_chunks} chunks of "
            f"{chunk_length} tokens end within these {length}, got {tuple(tokens.shape)}"
        )
    if mask is not None and (mask.shape != tokens.shape or mask.dtype != torch.bool):
        raise ValueError(
            f"neighbor_mask: expected bool of the shape of neighbor_tokens, {tuple(tokens.shape)}, "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
