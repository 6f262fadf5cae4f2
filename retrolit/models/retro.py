"""Retro: a GPT some of whose layers read what was retrieved for the chunk before.

B batch, T tokens, V vocabulary, D width, S chunks that end within the tokens, K neighbors of a chunk, R tokens of
a neighbor. The picture, for a decoder whose Retro layers are 6, 9 and 12:

    tokens --> embedding --> 1 .. 5 --> [6: self-attention, cross-attention, MLP] --> .. [9] --> .. [12] --> logits
                                                       |         ^                        ^          ^
                                                 chunk |         | encoded neighbors      |          |
                                                       v         |                        |          |
    neighbors --> embedding ----------------------> encoder -----+------------------------+----------'

The encoder sees a chunk as it is in the first Retro layer, before that layer's cross-attention. `chunk_grid` says which
token reads which chunk's neighbors; `neighbor_reader` does it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from retrolit.models.cache import KVCache
from retrolit.models.chunk_grid import ChunkGrid
from retrolit.models.config import GPTConfig
from retrolit.models.cross_attention import CrossAttention
from retrolit.models.encoder import NeighborEncoder
from retrolit.models.gpt import GPT, initialize
from retrolit.models.layer import TransformerLayer
from retrolit.models.loss import Loss
from retrolit.models.neighbor_reader import NeighborReader
from retrolit.models.norms import make_norm
from retrolit.models.retro_cache import RetroCache
from retrolit.models.retro_config import RetroConfig
from retrolit.models.rotary import RotaryTables


class Retro(nn.Module):
    """A GPT (`decoder`) with chunked cross-attention in its Retro layers, and the encoder of what it reads.

    `neighbor_tokens` (B, S, K, R) are ids of the vocabulary, for every chunk that ends within the tokens.
    `neighbor_mask`, bool of the same shape, is False at padding; None where there is none, as attention without a mask
    is faster. A chunk whose neighbors are all masked adds exactly nothing. `gate` scales what neighbors add; with gate
    0, or without neighbors, no encoder is run and the logits are the decoder's, bit for bit. `chunk_length` takes the
    place of the config's for one call. Whatever the length, the chunk grid ends where the tokens do, so the first chunk
    may be short; with a `RetroCache` it ends where the prompt did, and neighbors come with the token that completes
    their chunk.
    """

    def __init__(self, config: RetroConfig) -> None:
        super().__init__()
        if config.decoder is None:
            raise ValueError(
                "RetroConfig.decoder: expected the config of a GPT, got none; a recipe alone may leave it out"
            )
        self.config = config
        decoder = config.decoder
        self.decoder = GPT(decoder)
        for layer in self.retro_layers.values():
            layer.cross_attention_norm = make_norm(decoder)
            layer.cross_attention = CrossAttention(decoder, config.encoder.hidden_size, decoder.attention_dropout)
        self.encoder = NeighborEncoder(config)
        reach = config.retrieved_length + config.chunk_length
        near = replace(decoder, rope_scaling=None, max_position_embeddings=reach)
        self.cross_rotary = RotaryTables(near) if config.cross_rotary else None
        self.project, self.read_chunks = CrossAttention.project, CrossAttention.read_chunks
        """The steps of every chunked cross-attention, which `compile_layers` exchanges."""
        self._reset_retrieval()

    @classmethod
    def from_gpt(cls, gpt: GPT, config: RetroConfig) -> Retro:
        """Retro-fitting: a Retro whose decoder has the weights of `gpt`, and whose new parts are freshly initialized.

        With gate 0 it is `gpt`, bit for bit. Raises ValueError where `config.decoder` is not `gpt.config`.
        """
        wanted, given = asdict(config.decoder), asdict(gpt.config)
        differing = [name for name in wanted if wanted[name] != given[name]]
        if differing:
            told = "; ".join(f"{name} {wanted[name]}, of the GPT {given[name]}" for name in differing)
            raise ValueError(
                f"RetroConfig.decoder: expected the config of the GPT, got {told}; pass decoder=gpt.config"
            )
        weight = gpt.embedding.weight
        retro = cls(config).to(weight.device, weight.dtype)
        missing, unexpected = retro.decoder.load_state_dict(gpt.state_dict(), strict=False)
        assert not unexpected
        assert set(missing) == {name for name in retro.decoder.state_dict() if "cross_attention" in name}
        return retro

    def to_gpt(self) -> GPT:
        """The decoder as a plain GPT that shares its weights: what is left when retrieval is taken away."""
        with torch.device("meta"):
            gpt = GPT(self.config.decoder)
        weights = self.decoder.state_dict()
        gpt.load_state_dict({name: weights[name] for name in gpt.state_dict()}, assign=True)
        return gpt.train(self.training)

    @property
    def retro_layers(self) -> dict[int, TransformerLayer]:
        """The decoder's layers with cross-attention, by their number counted from 1."""
        return {number: self.decoder.layers[number - 1] for number in self.config.retro_layers}  # pyright: ignore[reportReturnType]

    @property
    def checkpoint_activations(self) -> bool:
        """The decoder's switch, which is the encoder's too."""
        return self.decoder.checkpoint_activations

    @checkpoint_activations.setter
    def checkpoint_activations(self, value: bool) -> None:
        self.decoder.checkpoint_activations = value

    def forward(
        self, tokens: Tensor, neighbor_tokens: Tensor | None = None, neighbor_mask: Tensor | None = None,
        gate: float = 1.0, chunk_length: int | None = None, *, cache: KVCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (B, T, V) of the token after each of `tokens` (B, T)."""
        hidden = self.hidden_states(tokens, neighbor_tokens, neighbor_mask, gate, chunk_length, cache=cache)
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) of `hidden_states` -> (..., V)."""
        return self.decoder.logits(hidden)

    def loss(
        self, tokens: Tensor, labels: Tensor, loss_mask: Tensor | None = None, neighbor_tokens: Tensor | None = None,
        neighbor_mask: Tensor | None = None, *, gate: float = 1.0, chunk_length: int | None = None,
        segments: Tensor | None = None,
    ) -> Loss:  # fmt: skip
        """Cross-entropy of `labels` (B, T), as `GPT.loss`."""
        hidden = self.hidden_states(tokens, neighbor_tokens, neighbor_mask, gate, chunk_length, segments=segments)
        return self.decoder.loss_of(hidden, labels, loss_mask)

    def hidden_states(
        self, tokens: Tensor, neighbor_tokens: Tensor | None = None, neighbor_mask: Tensor | None = None,
        gate: float = 1.0, chunk_length: int | None = None, *, cache: KVCache | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, T) token ids -> (B, T, D) after the final norm.

        `segments` (B, T) keeps texts that share a row apart (segments.py): a text reads the neighbors of those chunks
        alone that hold nothing of another; padding in front of it is as what comes before a sequence. Raises ValueError
        where the neighbors do not fit the chunks or `chunk_length` is not the cache's.
        """
        if isinstance(cache, RetroCache):
            start, grid = cache.length, cache.grid
            if chunk_length not in (None, grid.chunk_length):
                raise ValueError(f"chunk_length: expected the cache's, {grid.chunk_length}, got {chunk_length}")
        else:
            if gate == 0 or neighbor_tokens is None:
                return self.decoder.hidden_states(tokens, cache, segments=segments)
            if cache is not None:
                raise ValueError("cache: expected a RetroCache when there are neighbors, got a plain GPT's KVCache")
            start, grid = 0, ChunkGrid.ending_at(tokens.shape[1], chunk_length or self.config.chunk_length)
        neighbors = None if neighbor_tokens is None else (neighbor_tokens, neighbor_mask)
        reader = NeighborReader(self, grid, start, tokens.shape, neighbors, gate=gate, cache=cache, segments=segments)
        return self.decoder.hidden_states(tokens, cache, reader, segments)

    def compile_layers(self, **options: Any) -> None:
        """Have torch.compile, with these options, compile all layers, what they read of neighbors, and the loss."""
        self.decoder.compile_layers(**options)
        self.project = torch.compile(self.project, **options)
        self.read_chunks = torch.compile(self.read_chunks, **options)
        for layer in self.encoder.layers:
            layer.compile(**options)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights by the rule of the decoder, which gets those it would get as a GPT alone.

        What the encoder's attentions and MLPs put out counts as a projection back into the decoder's residual stream.
        """
        self.decoder.reset_parameters(generator)
        self._reset_retrieval(generator)

    @torch.no_grad()
    def _reset_retrieval(self, generator: torch.Generator | None = None) -> None:
        new = (
            (name, part)
            for name, part in self.named_modules()
            if "cross_attention" in name or name.startswith("encoder.")
        )
        initialize(new, self.config.decoder, generator)
        for layer in self.retro_layers.values():
            attention = layer.cross_attention
            assert isinstance(attention, CrossAttention)
            if self.config.cross_attention_init == "zero":
                attention.output.weight.zero_()
            elif self.config.cross_attention_init == "copying":
                attention.begin_by_copying(generator)

    def num_parameters(self) -> int:
        """Number of weights; tied embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int) -> int:
        """Matmul FLOPs of one token's forward and backward pass, its share of the neighbors included."""
        return sum(self.flops_by_part(sequence_length).values())

    def flops_by_part(self, sequence_length: int) -> dict[str, int]:
        """The FLOPs of one token of the decoder by part of the model, counted as in `GPT.flops_per_token`.

        Neighbors are as many and as long as the config says: for each token the encoder reads K R / M.
        """
        config, encoder = self.config, self.config.encoder
        read = config.num_neighbors * config.retrieved_length  # tokens, for one chunk
        share = read / config.chunk_length
        encoder_attention = encoder.num_layers * config.retrieved_length + config.chunk_length
        return {
            "decoder": self.decoder.flops_per_token(sequence_length),
            "encoder": _matmul_flops(self.encoder, share, 1)
            + int(12 * _heads_width(encoder) * share * encoder_attention),
            "cross_attention": sum(
                _matmul_flops(layer.cross_attention, 1, share) for layer in self.retro_layers.values()
            )
            + 12 * len(config.retro_layers) * _heads_width(config.decoder) * read,
        }


def _matmul_flops(module: nn.Module | None, times: float, key_value_times: float) -> int:
    """6 for every weight and time it multiplies; the keys and values of a cross-attention are made of other tokens."""
    assert module is not None
    return int(
        sum(
            6 * part.weight.numel() * (key_value_times if name.endswith("key_value") else times)
            for name, part in module.named_modules()
            if isinstance(part, nn.Linear)
        )
    )


def _heads_width(config: GPTConfig) -> int:
    assert config.head_dim is not None
    return config.num_attention_heads * config.head_dim
