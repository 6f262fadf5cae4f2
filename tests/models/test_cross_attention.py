"""Cross-attention against slow loops that follow the papers' words, one token and one neighbor at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from retrolit.models.cross_attention import ChunkMemory, CrossAttention
from retrolit.models.rotary import RotaryTables
from tests.models.retro_models import DECODER, build, random_tokens
from tests.models.retro_models import TINY as RETRO

HEADS, CHANNELS = 2, 8


def attention(context_size: int) -> CrossAttention:
    module = CrossAttention(DECODER, context_size, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def turned(vector: Tensor, position: int) -> Tensor:
    """A head's channels turned as complex numbers by position x 10000 ** (-2 i / C)."""
    half = CHANNELS // 2
    angles = position * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    number = torch.complex(vector[:half], vector[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([number.real, number.imag])


def read_one_by_one(module: CrossAttention, x: Tensor, seen: list[tuple[Tensor, int]], place: int | None) -> Tensor:
    """What one token x (D) reads of (encoded token, its position); `place` is its own position, None without any."""
    query = module.query(x).view(HEADS, CHANNELS)
    outputs = []
    for head in range(HEADS):
        scores, values = [], []
        for encoded, position in seen:
            key, value = module.key_value(encoded).view(HEADS, 2, CHANNELS)[head]
            if place is None:
                scores.append(query[head] @ key / math.sqrt(CHANNELS))
            else:
                scores.append(turned(query[head], place) @ turned(key, position) / math.sqrt(CHANNELS))
            values.append(value)
        outputs.append(torch.stack(scores).softmax(0) @ torch.stack(values))
    return module.output(torch.cat(outputs))


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_chunked_cross_attention_is_the_loop_over_tokens(rotary: bool, masked: bool) -> None:
    batch, chunks, neighbors, length, chunk_length, width = 2, 3, 2, 5, 4, 12
    module = attention(width)
    encoded = torch.randn(batch, chunks, neighbors, length, width, dtype=torch.float64)
    mask = torch.rand(batch, chunks, neighbors, length) < 0.6 if masked else None
    if mask is not None:
        mask[0, 1] = False
    tables, device = RotaryTables(DECODER), torch.device("cpu")
    places = tables.span(chunk_length - 1, 2 * chunk_length - 1, device) if rotary else None
    cos, sin = tables.span(0, length, device)
    tiled = (cos.double().repeat(neighbors, 1), sin.double().repeat(neighbors, 1)) if rotary else None
    keys, values = module.project(encoded.flatten(0, 1).flatten(1, 2), tiled)
    memory = ChunkMemory(
        keys.unflatten(0, (batch, chunks)),
        values.unflatten(0, (batch, chunks)),
        None if mask is None else mask.flatten(2),
    )
    for place, num_tokens in ((0, 12), (0, 9), (3, 6)):
        x = torch.randn(batch, num_tokens, 16, dtype=torch.float64)
        found = module.read_chunks(x, memory, step=chunk_length, place=place, rotation=places)
        for row in range(batch):
            for token in range(num_tokens):
                chunk, reader = divmod(place + token, chunk_length)
                seen = [
                    (encoded[row, chunk, neighbor, position], position)
                    for neighbor in range(neighbors)
                    for position in range(length)
                    if mask is None or mask[row, chunk, neighbor, position]
                ]
                if not seen:
                    assert not found[row, token].any()
                    continue
                where = chunk_length - 1 + reader if rotary else None
                expected = read_one_by_one(module, x[row, token], seen, where)
                torch.testing.assert_close(found[row, token], expected, atol=1e-6, rtol=1e-6)


def test_the_encoder_is_the_loop_over_neighbors() -> None:
    """Each neighbor alone, layer by layer in plain words, and each of its tokens reading the chunk's."""
    encoder = build(RETRO).double().encoder
    batch, chunks, neighbors, length, chunk_length, width = 1, 2, 2, 5, 4, 16
    embedded = torch.randn(batch, chunks, neighbors, length, width, dtype=torch.float64)
    context = torch.randn(batch, chunks, chunk_length, width, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor([[[5, 3], [1, 4]]])[..., None]
    context_mask = torch.tensor([[[False, False, True, True], [True] * 4]])
    encoded = encoder(embedded, context, mask, context_mask).view(embedded.shape)
    for chunk in range(chunks):
        visible = [(context[0, chunk, m], m) for m in range(chunk_length) if context_mask[0, chunk, m]]
        for neighbor in range(neighbors):
            shown = int(mask[0, chunk, neighbor].sum())
            x = embedded[0, chunk, neighbor, :shown]
            for number, layer in enumerate(encoder.layers):
                x = x + self_attention_one_by_one(layer.attention, layer.attention_norm(x))
                if number == 0:
                    normed = layer.cross_attention_norm(x)
                    found = [read_one_by_one(layer.cross_attention, normed[i], visible, i) for i in range(shown)]
                    x = x + torch.stack(found)
                x = x + layer.mlp(layer.mlp_norm(x))
            torch.testing.assert_close(encoded[0, chunk, neighbor, :shown], x, atol=1e-6, rtol=1e-6)


def self_attention_one_by_one(module: torch.nn.Module, x: Tensor) -> Tensor:
    """Every token of x (T, D) sees every one, with rotary positions."""
    heads = module.qkv(x).view(len(x), HEADS, 3, CHANNELS)
    rows = []
    for i in range(len(x)):
        outputs = []
        for head in range(HEADS):
            query = turned(heads[i, head, 0], i)
            scores = torch.stack([query @ turned(heads[j, head, 1], j) for j in range(len(x))]) / math.sqrt(CHANNELS)
            outputs.append(scores.softmax(0) @ heads[:, head, 2])
        rows.append(module.output(torch.cat(outputs)))
    return torch.stack(rows)


def test_positions_tell_a_neighbors_tokens_apart() -> None:
    """Reversing every neighbor changes what is read with positions, and nothing without them."""
    from dataclasses import replace

    tokens, neighbors = random_tokens(1, 8), random_tokens(1, 2, 2, 8)
    for encoder_rotary, cross_rotary in ((True, False), (False, True), (False, False)):
        model = build(replace(RETRO, encoder_rotary=encoder_rotary, cross_rotary=cross_rotary))
        same = torch.allclose(model(tokens, neighbors), model(tokens, neighbors.flip(-1)), atol=1e-5)
        assert same == (not encoder_rotary and not cross_rotary)
