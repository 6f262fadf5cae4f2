"""Packed texts do not see each other: a row of several gives what each of them gives alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from retrolit.models import GPT, GPTConfig, Retro, RetroCache, RetroConfig
from retrolit.models.segments import positions_within, visible_within
from tests.models.retro_models import DECODER, TINY, VARIANTS, build, random_neighbors, random_tokens

GPTS = {name: config.decoder for name, config in VARIANTS.items()}
LENGTHS = [7, 1, 12, 5]


def pack(lengths: list[int], whole: int = 1) -> tuple[Tensor, list[slice]]:
    """Segments (1, T) of texts of these lengths, each padded to a multiple of `whole`, and where each text stands."""
    segments, places = [], []
    for number, length in enumerate(lengths):
        places.append(slice(len(segments), len(segments) + length))
        segments += [number] * length + [-1] * (-length % whole)
    return torch.tensor(segments)[None], places


def gpt_of(config: GPTConfig) -> GPT:
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def gradients_of(model: GPT | Retro, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


def test_the_three_number_example() -> None:
    segments = torch.tensor([[0, 0, 0, -1, 1, 1, -1]])
    assert positions_within(segments).tolist() == [[0, 1, 2, 0, 0, 1, 0]]
    seen = visible_within(segments)[0, 0]
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [3], [4], [4, 5], [3, 6]]


@pytest.mark.parametrize("config", GPTS.values(), ids=GPTS.keys())
@pytest.mark.parametrize("recompute", [False, True])
def test_packed_texts_are_the_texts_alone_for_a_gpt(config: GPTConfig, recompute: bool) -> None:
    model = gpt_of(config).train(recompute)  # without dropout, training only decides whether activations are kept
    model.checkpoint_activations = recompute
    segments, places = pack(LENGTHS, whole=3)
    tokens, labels = random_tokens(*segments.shape), random_tokens(*segments.shape)
    packed = model.loss(tokens, labels, (segments >= 0).float(), segments)
    gradients = gradients_of(model, packed.mean)
    alone = []
    for place, length in zip(places, LENGTHS, strict=True):
        loss = model.loss(tokens[:, place], labels[:, place])
        alone.append(loss.mean * length)
        assert torch.allclose(packed.tokens[:, place], loss.tokens, atol=1e-5)
    for one, other in zip(gradients, gradients_of(model, sum(alone) / sum(LENGTHS)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("masked", [False, True])
def test_packed_texts_are_the_texts_alone_for_a_retro(config: RetroConfig, masked: bool) -> None:
    """Every text begins at a chunk's beginning; alone it is filled up at its end, so that its chunks are the same."""
    model = build(config)
    whole = config.chunk_length
    segments, places = pack(LENGTHS, whole)
    tokens, labels = random_tokens(*segments.shape), random_tokens(*segments.shape)
    neighbors = random_neighbors(config, 1, segments.shape[1])
    mask = torch.rand(neighbors.shape) < 0.7 if masked else None
    packed = model.loss(tokens, labels, (segments >= 0).float(), neighbors, mask, segments=segments)
    gradients = gradients_of(model, packed.mean)
    alone = []
    for number, place in enumerate(places):
        columns = slice(place.start, place.start + -(-LENGTHS[number] // whole) * whole)
        chunks = slice(columns.start // whole, columns.stop // whole)
        kept = (segments[:, columns] == number).float()
        some = None if mask is None else mask[:, chunks]
        loss = model.loss(tokens[:, columns], labels[:, columns], kept, neighbors[:, chunks], some)
        alone.append(loss.mean * LENGTHS[number])
        assert torch.allclose(packed.tokens[:, place], loss.tokens[:, : LENGTHS[number]], atol=1e-5)
    for one, other in zip(gradients, gradients_of(model, sum(alone) / sum(LENGTHS)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_neighbors_of_a_chunk_are_read_in_its_own_text_alone() -> None:
    """By substitution, wherever texts begin and whether or not the chunks fill the row: M is 4."""
    model = build(TINY)
    for lengths in ([4, 8], [5, 6], [3, 2, 5, 4], [9, 1]):
        segments, places = pack(lengths)
        tokens = random_tokens(*segments.shape)
        neighbors = random_neighbors(TINY, 1, segments.shape[1])
        length, step = segments.shape[1], TINY.chunk_length
        before = model.hidden_states(tokens, neighbors, segments=segments)
        for chunk, end in enumerate(range(length % step or step, length + 1, step)):
            changed = neighbors.clone()
            changed[:, chunk] = (changed[:, chunk] + 1) % TINY.decoder.vocab_size
            after = model.hidden_states(tokens, changed, segments=segments)
            moved = {column for column in range(length) if not torch.equal(before[0, column], after[0, column])}
            begin = max(0, end - step)
            own = next(place for place in places if place.start <= begin < place.stop)
            assert moved == set(range(end - 1, own.stop)), (lengths, chunk)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("masked", [False, True])
def test_padding_in_front_is_as_the_left_padding_of_generation(config: RetroConfig, masked: bool) -> None:
    """Two texts in a row, each with padding in front, are what a cache gives for each alone with its left padding."""
    model, step = build(config), config.chunk_length
    lengths = [2 * step - 1, step + 2]
    segments = torch.cat([torch.tensor([-1] * (-n % step) + [i] * n) for i, n in enumerate(lengths)])[None]
    tokens = random_tokens(*segments.shape)
    neighbors = random_neighbors(config, 1, segments.shape[1])
    mask = torch.rand(neighbors.shape) < 0.7 if masked else None
    packed = model.hidden_states(tokens, neighbors, mask, segments=segments)
    begin = 0
    for length in lengths:
        padding = -length % step
        columns = slice(begin, begin + padding + length)
        chunks = slice(columns.start // step, columns.stop // step)
        cache = RetroCache(config, 1, padding + length, padding + length, torch.tensor([padding]))
        some = None if mask is None else mask[:, chunks]
        alone = model.hidden_states(tokens[:, columns], neighbors[:, chunks], some, cache=cache)
        assert torch.allclose(packed[:, begin + padding : columns.stop], alone[:, padding:], atol=1e-5)
        begin = columns.stop


def test_with_gate_0_packed_texts_are_the_decoders() -> None:
    model = build(TINY)
    segments, _ = pack(LENGTHS)
    tokens = random_tokens(*segments.shape)
    neighbors = random_neighbors(TINY, 1, segments.shape[1])
    found = model.hidden_states(tokens, neighbors, gate=0, segments=segments)
    assert torch.equal(found, model.decoder.hidden_states(tokens, segments=segments))


def test_packed_texts_learn_positions_of_their_own() -> None:
    """The second text's positions begin at 0 again, where learned positions would otherwise be others."""
    model = gpt_of(replace(DECODER, position_embedding="learned"))
    segments, places = pack([3, 4])
    text = random_tokens(1, 4)
    tokens = torch.cat([random_tokens(1, 3), text], dim=1)
    assert torch.allclose(
        model.hidden_states(tokens, segments=segments)[:, places[1]], model.hidden_states(text), atol=1e-5
    )
