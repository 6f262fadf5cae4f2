"""Generation with neighbors computes each token once and gets what one pass over everything gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from retrolit.models import Retro, RetroCache
from tests.models.retro_models import NVIDIA, TINY, VARIANTS, build, random_neighbors, random_tokens


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest) -> Retro:
    return build(request.param)


@torch.no_grad()
def generate(
    model: Retro, cache: RetroCache, pieces: list[int], tokens: Tensor, neighbors: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Logits of tokens (B, T) taken in these pieces, each chunk's neighbors with the piece that completes it."""
    logits, chunk = [], 0
    for piece in tokens.split(pieces, dim=1):
        ending = slice(chunk, chunk + len(cache.ending_chunks(piece.shape[1])))
        chunk = ending.stop
        given = neighbors[:, ending] if ending.start < ending.stop else None
        masked = None if given is None or mask is None else mask[:, ending]
        logits.append(model(piece, given, masked, cache=cache))
    assert chunk == neighbors.shape[1]
    return torch.cat(logits, dim=1)


def test_every_prompt_continued_token_by_token_equals_one_pass(model: Retro) -> None:
    chunk_length = model.config.chunk_length
    for prompt in range(1, 3 * chunk_length + 2):
        length = prompt + 2 * chunk_length
        tokens, neighbors = random_tokens(2, length), random_neighbors(model.config, 2, length)
        cache = RetroCache(model.config, 2, length, prompt_length=prompt)
        logits = generate(model, cache, [prompt] + [1] * (2 * chunk_length), tokens, neighbors)
        torch.testing.assert_close(logits, model(tokens, neighbors), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[6, 5], [1] * 11, [2, 7, 2], [10, 1], [3, 3, 3, 2]], ids=str)
def test_any_pieces_equal_one_pass(model: Retro, pieces: list[int]) -> None:
    """Pieces may end anywhere, also in the prompt and across its end."""
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    mask = torch.rand(neighbors.shape) < 0.7
    mask[0, 1] = False
    for prompt in {11, 11 - model.config.chunk_length}:
        cache = RetroCache(model.config, 2, 11, prompt_length=prompt)
        logits = generate(model, cache, pieces, tokens, neighbors, mask)
        torch.testing.assert_close(logits, model(tokens, neighbors, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_left_padded_rows_equal_each_row_alone(model: Retro, masked: bool) -> None:
    """Rows of M + 1, 3 M, M, 1 and M - 1 prompt tokens side by side."""
    chunk_length = model.config.chunk_length
    lengths = [chunk_length + 1, 3 * chunk_length, chunk_length, 1, chunk_length - 1]
    prompt, more = max(lengths), chunk_length + 2
    length = prompt + more
    tokens = random_tokens(5, length)
    cache = RetroCache(model.config, 5, length, prompt, left_padding=torch.tensor([prompt - own for own in lengths]))
    neighbors = random_neighbors(model.config, 5, length - 2)
    mask = torch.rand(neighbors.shape) < 0.7 if masked else None
    logits = generate(model, cache, [prompt] + [1] * more, tokens, neighbors, mask)
    assert logits.isfinite().all()
    for row, own in enumerate(lengths):
        alone = RetroCache(model.config, 1, own + more, prompt_length=own)
        chunks = -(-own // chunk_length) + 1
        own_mask = None if mask is None else mask[row : row + 1, -chunks:]
        own_tokens, own_neighbors = tokens[row : row + 1, prompt - own :], neighbors[row : row + 1, -chunks:]
        expected = generate(model, alone, [own] + [1] * more, own_tokens, own_neighbors, own_mask)
        torch.testing.assert_close(logits[row : row + 1, prompt - own :], expected, atol=1e-5, rtol=1e-5)


def test_left_padded_prompts_in_pieces(model: Retro) -> None:
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    whole, pieces = (
        generate(
            model, RetroCache(model.config, 2, 11, 11, left_padding=torch.tensor([7, 0])), split, tokens, neighbors
        )
        for split in ([11], [4, 4, 3])
    )
    torch.testing.assert_close(pieces[0, 7:], whole[0, 7:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pieces[1], whole[1], atol=1e-5, rtol=1e-5)


def test_neighbors_reach_exactly_the_positions_of_the_law(model: Retro) -> None:
    """As in one pass: those of the chunk that ends at column e reach position e - 1 and all behind it."""
    chunk_length = model.config.chunk_length
    prompt = 2 * chunk_length - 1
    length = prompt + 2 * chunk_length
    tokens, neighbors = random_tokens(1, length), random_neighbors(model.config, 1, length)
    split = [prompt] + [1] * (length - prompt)

    def logits(of: Tensor) -> Tensor:
        return generate(model, RetroCache(model.config, 1, length, prompt), split, tokens, of)

    expected = logits(neighbors)
    for chunk in range(neighbors.shape[1]):
        others = neighbors.clone()
        others[:, chunk] = (others[:, chunk] + 1) % model.config.decoder.vocab_size
        changed = (logits(others) - expected).abs().amax(-1)[0] > 1e-7
        end = length - (neighbors.shape[1] - 1 - chunk) * chunk_length
        assert changed.tolist() == [position >= end - 1 for position in range(length)]


def test_a_chunk_without_neighbors_leaves_nothing_to_read(model: Retro) -> None:
    """Whether they are not given or masked, and until the next chunk ends."""
    chunk_length = model.config.chunk_length
    length = 4 * chunk_length
    tokens, neighbors = random_tokens(2, length), random_neighbors(model.config, 2, length)
    mask = torch.ones_like(neighbors, dtype=torch.bool)
    mask[:, [0, 2]] = False
    cache = RetroCache(model.config, 2, length, prompt_length=chunk_length + 1)
    logits = []
    with torch.no_grad():
        for column in range(0, length, 2):  # chunks end at M + 1 - M, M + 1, 2 M + 1, 3 M + 1
            chunks = [number for number, end in enumerate(range(1, length, chunk_length)) if column < end <= column + 2]
            given = [neighbors[:, number : number + 1] for number in chunks if number in (1, 3)]
            piece = tokens[:, column : column + 2]
            logits.append(model(piece, given[0] if given else None, cache=cache))
        first, rest = tokens[:, : 3 * chunk_length + 1], tokens[:, 3 * chunk_length + 1 :]
        whole = RetroCache(model.config, 2, length, prompt_length=3 * chunk_length + 1)
        expected = [model(first, neighbors, mask, cache=whole), model(rest, cache=whole)]
    torch.testing.assert_close(torch.cat(logits, 1), torch.cat(expected, 1), atol=1e-5, rtol=1e-5)


def test_with_gate_0_it_is_the_decoder_and_runs_no_encoder(model: Retro) -> None:
    tokens, neighbors = random_tokens(2, 8), random_neighbors(model.config, 2, 8)
    model.encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder ran"))
    cache = RetroCache(model.config, 2, 8, prompt_length=8)
    assert torch.equal(model(tokens, neighbors, gate=0, cache=cache), model.decoder(tokens))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_shorter_stride_seeks_neighbors_for_the_last_tokens_more_often(stride: int) -> None:
    """The token that completes a chunk reads its neighbors as if the sequence had just been given as a prompt."""
    model = build(replace(TINY, retro_layers=[3]))  # the only Retro layer last: earlier neighbors have no influence
    tokens, prompt = random_tokens(2, 15), 6
    cache = RetroCache(model.config, 2, 15, prompt, retrieval_stride=stride)
    first = random_tokens(2, 2, 2, 8)
    assert cache.ending_chunks(prompt) == [(0, 2), (2, 6)]
    with torch.no_grad():
        model(tokens[:, :prompt], first, cache=cache)
        for column in range(prompt, 15):
            ending = cache.ending_chunks(1)
            due = (column + 1 - prompt) % stride == 0
            assert ending == ([(column - 3, column + 1)] if due else [])
            neighbors = random_tokens(2, 1, 2, 8) if due else None
            logits = model(tokens[:, column : column + 1], neighbors, cache=cache)
            if neighbors is not None:
                chunks = -(-(column + 1) // 4)
                whole = torch.cat([random_tokens(2, chunks - 1, 2, 8), neighbors], dim=1)
                expected = model(tokens[:, : column + 1], whole)[:, -1:]
                torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_shorter_stride_in_pieces_equals_single_tokens(model: Retro, stride: int) -> None:
    tokens, neighbors = random_tokens(2, 15), random_tokens(2, 11, 2, 6)
    results = []
    for pieces in ([6, 9], [6] + [1] * 9, [6, 4, 5]):
        cache = RetroCache(model.config, 2, 15, 6, retrieval_stride=stride)
        first = len(cache.ending_chunks(6))
        results.append(generate(model, cache, pieces, tokens, neighbors[:, : first + 9 // stride]))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, atol=1e-5, rtol=1e-5)


def test_neighbors_are_encoded_and_projected_once_a_chunk() -> None:
    model = build(TINY)
    counts = {"encoder": 0, "projections": 0}

    def count(name: str):
        def add(*_: object) -> None:
            counts[name] += 1

        return add

    model.encoder.register_forward_pre_hook(count("encoder"))
    for layer in model.retro_layers.values():
        layer.cross_attention.key_value.register_forward_pre_hook(count("projections"))
    tokens, neighbors = random_tokens(1, 14), random_neighbors(TINY, 1, 14)
    generate(model, RetroCache(TINY, 1, 14, 6), [6] + [1] * 8, tokens, neighbors)
    assert counts == {"encoder": 3, "projections": 6}  # the prompt's chunks in one go, then two chunks of 4 tokens


@pytest.mark.parametrize("padding", [None, [1, 0, 4]], ids=str)
def test_rows_that_are_kept_go_on_as_if_the_others_had_never_been(model: Retro, padding: list[int] | None) -> None:
    """In another order too; neighbors of some rows are masked, so that what is read differs from row to row."""
    chunk_length, kept = model.config.chunk_length, [2, 0]
    prompt, length = 2 * chunk_length, 4 * chunk_length + 1
    tokens, neighbors = random_tokens(3, length), random_neighbors(model.config, 3, length - 1)
    mask = torch.rand(neighbors.shape) < 0.7
    mask[0] = False
    logits = []
    for before, after in (([0, 1, 2], kept), (kept, [0, 1])):
        left = None if padding is None else torch.tensor(padding)[before]
        cache = RetroCache(model.config, len(before), length, prompt, left_padding=left)
        with torch.no_grad():
            model(tokens[before, :prompt], neighbors[before, :2], mask[before, :2], cache=cache)
        cache.keep(torch.tensor(after))
        rest = [1] * (length - prompt)
        logits.append(generate(model, cache, rest, tokens[kept, prompt:], neighbors[kept, 2:], mask[kept, 2:]))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


def test_memory_does_not_grow_with_the_number_of_chunks() -> None:
    model = build(TINY)
    cache = RetroCache(TINY, 1, 40, 40)
    model(random_tokens(1, 40), random_neighbors(TINY, 1, 40), cache=cache)
    assert cache.context is not None
    assert cache.context.untyped_storage().nbytes() == 3 * 16 * 4
    assert set(cache.memories) == {1, 2}
    for memory in cache.memories.values():
        assert memory.keys.untyped_storage().nbytes() == 2 * 8 * 16 * 4


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"retrieval_stride: expected 1 to chunk_length \(4\) tokens, got 5"):
        RetroCache(TINY, 1, 8, 4, retrieval_stride=5)
    model = build(NVIDIA)
    cache = RetroCache(NVIDIA, 1, 20, 8, retrieval_stride=2)
    with pytest.raises(
        ValueError, match=r"the prompt's 8 tokens and those behind it in separate calls.* columns 0 to 9"
    ):
        model(random_tokens(1, 10), random_tokens(1, 3, 2, 8), cache=cache)
    cache = RetroCache(NVIDIA, 1, 20, 4)
    model(random_tokens(1, 4), random_tokens(1, 1, 2, 8), cache=cache)
    with pytest.raises(ValueError, match=r"because 0 chunks of 4 tokens end within these 1"):
        model(random_tokens(1, 1), random_tokens(1, 1, 2, 8), cache=cache)
    model(random_tokens(1, 2), cache=cache)
    with pytest.raises(ValueError, match=r"expected K x R = 16 tokens for a chunk, as for the one before, got 8"):
        model(random_tokens(1, 2), random_tokens(1, 1, 1, 8), cache=cache)
