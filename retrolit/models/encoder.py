"""The neighbor encoder: a small bidirectional transformer over retrieved tokens that looks at the chunk they are for.

B batch, S chunks, K neighbors of a chunk, R tokens of a neighbor, M tokens of a chunk, D width of the decoder, E of the
encoder. Every neighbor is a sequence of its own; only in the first layer does it read the decoder's activations of its
chunk (RETRO, section 2.4 and algorithm 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrolit.models.cache import LayerCache
from retrolit.models.cross_attention import CrossAttention
from retrolit.models.layer import Cross, TransformerLayer, recomputed
from retrolit.models.norms import make_norm
from retrolit.models.retro_config import RetroConfig
from retrolit.models.rotary import RotaryTables, Rotation


class NeighborEncoder(nn.Module):
    """Layers without a causal mask, the first with a cross-attention to the chunk; no norm after the last."""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__()
        decoder, encoder = config.decoder, config.encoder
        narrower = encoder.hidden_size != decoder.hidden_size
        self.normed_residual = config.encoder_residual == "normed"
        self.input = nn.Linear(decoder.hidden_size, encoder.hidden_size, bias=False) if narrower else None
        self.layers = nn.ModuleList(EncoderLayer(encoder, causal=False) for _ in range(encoder.num_layers))
        self.layers[0].cross_attention_norm = make_norm(encoder)
        self.layers[0].cross_attention = CrossAttention(encoder, decoder.hidden_size, decoder.attention_dropout)
        self.rotary = RotaryTables(encoder) if config.encoder_rotary else None

    def forward(
        self, embedded: Tensor, context: Tensor, mask: Tensor | None = None, context_mask: Tensor | None = None,
        *, recompute: bool = False,
    ) -> Tensor:  # fmt: skip
        """Embedded neighbors (B, S, K, R, D) and their chunks' activations (B, S, M, D) -> (B, S, K R, E).

        The masks, bool, (B, S, K, R) and (B, S, M), are False at what must not be read; what is encoded of masked
        tokens has no meaning. With `recompute` each layer keeps its input alone for the backward pass.
        """
        batch, chunks, neighbors, length, _ = embedded.shape
        context = context.flatten(0, 1)  # (B S, M, D)
        rotation = tiled = chunk_rotation = None
        if self.rotary is not None:
            rotation = self.rotary.span(0, length, embedded.device)
            tiled = (rotation[0].repeat(neighbors, 1), rotation[1].repeat(neighbors, 1))  # the neighbors side by side
            chunk_rotation = self.rotary.span(0, context.shape[1], embedded.device)
        seen = None if mask is None else _something_visible(mask.flatten(0, 2))[:, None, None]  # (B S K, 1, 1, R)
        seen_context = None if context_mask is None else _something_visible(context_mask.flatten(0, 1))  # (B S, M)

        def read_chunk(layer: TransformerLayer, x: Tensor) -> Tensor:
            assert layer.cross_attention is not None
            assert layer.cross_attention_norm is not None
            normed = layer.cross_attention_norm(x)  # (B S K, R, E)
            rows = normed.view(batch * chunks, neighbors * length, -1)
            found = layer.cross_attention(rows, context, seen_context, tiled, chunk_rotation)
            return (normed if self.normed_residual else x) + layer.drop(found).view_as(x)

        x = embedded if self.input is None else self.input(embedded)
        x = x.flatten(0, 2)  # (B S K, R, E)
        for layer in self.layers:
            x = (recomputed(layer) if recompute else layer)(x, rotation, seen, cross=read_chunk)
        return x.view(batch, chunks, neighbors * length, -1)


class EncoderLayer(TransformerLayer):
    """A layer of the encoder. It has a forward pass of its own because torch.compile keeps what it compiled by the
    function, and would take sequences and neighbors for one that is called with all lengths."""

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        cross: Cross | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """As a decoder's."""
        return super().forward(x, rotation, mask, cache, cross, recompute)


def _something_visible(mask: Tensor) -> Tensor:
    """The mask (N, T) with True all over the rows that hide everything: softmax over nothing is not a number, and
    nothing that is encoded there is read."""
    return torch.where(mask.any(-1, keepdim=True), mask, True)
