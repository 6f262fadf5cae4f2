"""Ours: Retro, and its decoder alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.peers import sizes
from benchmarks.peers.sizes import Candidate
from retrolit.models import GPT, GPTConfig, KVCache, Retro, RetroConfig
from retrolit.models.retro_cache import RetroCache

DECODER = GPTConfig(
    vocab_size=sizes.VOCABULARY, hidden_size=sizes.WIDTH, num_layers=sizes.LAYERS, num_attention_heads=sizes.HEADS,
    ffn_hidden_size=sizes.MLP_WIDTH, max_position_embeddings=sizes.MAX_LENGTH, position_embedding="learned",
    activation="gelu_tanh", tied_embeddings=True,
)  # fmt: skip
RETRO = RetroConfig(
    DECODER, retro_layers=list(sizes.RETRO_LAYERS), chunk_length=sizes.CHUNK, num_neighbors=sizes.NEIGHBORS,
    num_retrieved_chunks=sizes.RETRIEVED // sizes.CHUNK, encoder_layers=sizes.ENCODER_LAYERS,
)  # fmt: skip


def as_peers() -> Candidate:
    """Retro without rotary positions in encoder and cross-attention, which no peer has."""
    return retro(replace(RETRO, encoder_rotary=False, cross_rotary=False))


def padded() -> Candidate:
    """Retro that is told that the last quarter of the neighbors of every other chunk is padding."""
    candidate = retro()
    model = candidate.model
    assert isinstance(model, Retro)

    def loss(tokens: Tensor, neighbors: Tensor) -> Tensor:
        mask = torch.ones_like(neighbors, dtype=torch.bool)
        mask[:, ::2, :, -sizes.RETRIEVED // 4 :] = False
        return model.loss(tokens[:, :-1], tokens[:, 1:], neighbor_tokens=neighbors, neighbor_mask=mask).mean

    return replace(candidate, loss=loss)


def recomputing() -> Candidate:
    """Retro that keeps only each layer's input, and computes the layer again in the backward pass."""
    candidate = retro()
    assert isinstance(candidate.model, Retro)
    candidate.model.checkpoint_activations = True
    return candidate


def retro(config: RetroConfig = RETRO) -> Candidate:
    """Retro with the defaults of a new model: rotary positions in the encoder and the cross-attention."""
    model = Retro(config)

    def loss(tokens: Tensor, neighbors: Tensor) -> Tensor:
        return model.loss(tokens[:, :-1], tokens[:, 1:], neighbor_tokens=neighbors).mean

    def generate(prompt: Tensor, neighbors: Tensor) -> Tensor:
        cache = RetroCache(config, 1, sizes.PROMPT + sizes.NEW, prompt_length=sizes.PROMPT)
        tokens, new, chunk = prompt, prompt, 0
        for _ in range(sizes.NEW):
            ending = len(cache.ending_chunks(new.shape[1]))
            given = neighbors[:, chunk : chunk + ending] if ending else None
            chunk += ending
            new = model(new, given, cache=cache)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        assert chunk == (sizes.PROMPT + sizes.NEW - 1) // sizes.CHUNK  # the last token drawn is not read
        return tokens

    return Candidate(model, loss, generate)


def gpt() -> Candidate:
    """The decoder as a GPT that reads no neighbors."""
    model = GPT(DECODER)

    def loss(tokens: Tensor, neighbors: Tensor) -> Tensor:
        return model.loss(tokens[:, :-1], tokens[:, 1:]).mean

    def generate(prompt: Tensor, neighbors: Tensor) -> Tensor:
        cache = KVCache(DECODER, 1, sizes.PROMPT + sizes.NEW)
        tokens, new = prompt, prompt
        for _ in range(sizes.NEW):
            new = model(new, cache=cache)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens

    return Candidate(model, loss, generate)
