"""Text that is written while neighbors are retrieved for it is the text that full passes over everything give."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from retrolit.generation import ChunkNeighbors, Generator, Retrieved, SamplingConfig, reading
from retrolit.generation.generator import row_seed
from retrolit.generation.sampling import next_tokens
from retrolit.models import GPT, Retro, RetroCache
from retrolit.retrieval import DictionaryRetriever, ExcludingRetriever, LiveRetriever
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import DECODER, build, prepare_index

M, K, R = 8, 2, 16
GREEDY = SamplingConfig(max_new_tokens=21, temperature=0)
SAMPLED = SamplingConfig(max_new_tokens=21, temperature=1.2, top_k=100, repetition_penalty=1.2, seed=3)
PROMPTS = ["r", "violin ", "granite ", "falcon me", "the harbor in winter, a", "", "anchor pepper saddle, copper"]
TOKENIZER = ByteTokenizer()

Seek = Callable[[list[int]], list[list[int]]]
"""The tokens of a chunk -> those of its neighbors, at most K, the nearest first."""


@pytest.fixture
def model() -> Retro:
    return build()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveRetriever:
    return LiveRetriever(prepare_index(tmp_path_factory.mktemp("index") / "prepared"))


def made_up(chunk: list[int]) -> list[list[int]]:
    """Neighbors that are a function of the chunk: none, one or two of them, short and long."""
    draw = random.Random(repr(chunk))
    return (
        [[draw.randrange(256) for _ in range(draw.randint(1, R))] for _ in range(draw.randint(0, K))] if chunk else []
    )


def searched(live: LiveRetriever) -> Seek:
    """What the live retriever finds when it is asked for one chunk alone."""

    def seek(chunk: list[int]) -> list[list[int]]:
        padded = np.array([chunk + [0] * (M - len(chunk))])
        found = live.retrieve(padded, np.array([len(chunk)]), K)
        there = np.flatnonzero(found.ids[0] >= 0)
        return [found.tokens[0, rank][found.mask[0, rank]].tolist() for rank in there]

    return seek


def chunk_spans(prompt: int, length: int) -> list[tuple[int, int]]:
    """The chunks of a text of `length` tokens that end within it, counted back and forth from the prompt's end."""
    ends = [end for end in range(1, length + 1) if (end - prompt) % M == 0]
    return [(max(0, end - M), end) for end in ends]


def as_tensors(neighbors: Sequence[list[list[int]]]) -> tuple[Tensor, Tensor]:
    """(1, S, K, R) tokens and mask."""
    tokens = torch.zeros(1, len(neighbors), K, R, dtype=torch.long)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for chunk, texts in enumerate(neighbors):
        for rank, text in enumerate(texts):
            tokens[0, chunk, rank, : len(text)], mask[0, chunk, rank, : len(text)] = torch.tensor(text), True
    return tokens, mask


@torch.no_grad()
def full_passes(
    model: Retro, prompt: str, sampling: SamplingConfig, seek: Seek, known: dict | None = None
) -> list[int]:
    """The slow way: every token by one pass over the whole text and all neighbors, without a cache.

    The grid of a pass ends where its tokens do, so the text is filled up until the prompt's end is on it; by causality
    the filling does not matter. What was sought is noted in `known`.
    """
    tokens = TOKENIZER.encode(prompt) or [TOKENIZER.eod_id]
    start, draw = len(tokens), torch.Generator().manual_seed(row_seed(sampling.seed, prompt, 0))
    while len(tokens) - start < sampling.max_new_tokens:
        chunks = [[t for t in tokens[a:b] if t != TOKENIZER.eod_id] for a, b in chunk_spans(start, len(tokens))]
        neighbors = [seek(chunk) for chunk in chunks]
        if known is not None:
            known.update({tuple(chunk): found for chunk, found in zip(chunks, neighbors, strict=True)})
        filling = (start - len(tokens)) % M
        given = as_tensors(neighbors + [[]] * (filling > 0))
        logits = model(torch.tensor([tokens + [0] * filling]), *given)[:, len(tokens) - 1, : TOKENIZER.vocab_size]
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, tokens] = True
        token = int(next_tokens(logits, sampling, [draw], seen))
        if token == TOKENIZER.eod_id:
            break
        tokens.append(token)
    return tokens[start:]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_ragged_batch_with_a_dictionary_equals_full_passes(model: Retro, sampling: SamplingConfig) -> None:
    known: dict = {}
    expected = [full_passes(model, prompt, sampling, made_up, known) for prompt in PROMPTS]
    retriever = DictionaryRetriever(known, M)
    together = Generator(model, TOKENIZER, retriever).generate(PROMPTS, sampling)
    assert [generation.tokens for generation in together] == expected
    without = Generator(model, TOKENIZER, DictionaryRetriever({}, M)).generate(PROMPTS, sampling)
    assert [generation.tokens for generation in without] != expected


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_ragged_batch_with_an_index_equals_full_passes(
    model: Retro, live: LiveRetriever, sampling: SamplingConfig
) -> None:
    generator = Generator(model, TOKENIZER, live)
    together = generator.generate(PROMPTS, sampling)
    for prompt, generation in zip(PROMPTS, together, strict=True):
        assert generation.tokens == full_passes(model, prompt, sampling, searched(live))
        assert generator.generate([prompt], sampling, batch_size=1) == [generation]


def test_rows_that_end_early_do_not_disturb_the_others(model: Retro, live: LiveRetriever) -> None:
    generator = Generator(model, TOKENIZER, live)
    sampling = replace(SAMPLED, stop=[chr(number) for number in range(32, 48)])
    together = generator.generate(PROMPTS, sampling)
    assert together == [generator.generate([prompt], sampling)[0] for prompt in PROMPTS]
    assert len({len(generation.tokens) for generation in together}) > 3


def test_a_prompt_is_read_in_pieces_that_end_anywhere(
    model: Retro, live: LiveRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(model, TOKENIZER, live)
    expected = generator.generate(PROMPTS, GREEDY)
    monkeypatch.setattr(reading, "PIECE", 5)
    assert generator.generate(PROMPTS, GREEDY) == expected


def test_a_stream_gives_the_text_and_returns_the_whole(model: Retro, live: LiveRetriever) -> None:
    generator = Generator(model, TOKENIZER, live)
    (expected,) = generator.generate(["granite violin"], SAMPLED)
    returned = []

    def stream() -> Iterator[str]:
        returned.append((yield from generator.stream("granite violin", SAMPLED)))

    assert "".join(stream()) == expected.text
    assert returned == [expected]


@pytest.mark.parametrize("stride", [1, 3, M])
@torch.no_grad()
def test_a_stride_seeks_neighbors_of_the_last_tokens_more_often(model: Retro, live: LiveRetriever, stride: int) -> None:
    """Equal to a plain loop around the cache; the first readers of a chunk are the token that completes it."""
    prompt, seek = TOKENIZER.encode("the harbor in winter"), searched(live)
    (generation,) = Generator(model, TOKENIZER, live, retrieval_stride=stride).generate(
        ["the harbor in winter"], GREEDY
    )
    cache = RetroCache(model.config, 1, 64, len(prompt), retrieval_stride=stride)
    tokens, new = list(prompt), list(prompt)
    for _ in range(GREEDY.max_new_tokens):
        chunks = cache.ending_chunks(len(new))
        given = as_tensors([seek(tokens[start:end]) for start, end in chunks]) if chunks else (None, None)
        new = [int(model(torch.tensor([new]), *given, cache=cache)[0, -1, :257].argmax())]
        tokens += new
    assert generation.tokens == tokens[len(prompt) :]
    read = len(tokens) - 1  # the last token is drawn, and never read
    behind = range(len(prompt) + stride, read + 1, stride)
    assert [(chunk.start, chunk.end) for chunk in generation.neighbors] == [
        (0, 4), (4, 12), (12, 20), *((end - M, end) for end in behind)
    ]  # fmt: skip


def test_the_sources_come_with_the_text(model: Retro) -> None:
    prompt = "granite falcon"  # chunks: "granit", "e falcon"
    retriever = DictionaryRetriever({tuple(b"e falcon"): [list(b"first"), list(b"second, and its end"[:R])]}, M)
    sampling = replace(GREEDY, max_new_tokens=M + 1)
    (generation,) = Generator(model, TOKENIZER, retriever).generate([prompt], sampling)
    assert generation.neighbors == [
        ChunkNeighbors(0, 6, []),
        ChunkNeighbors(
            6, 14,
            [Retrieved(0, 0.0, "dictionary, neighbor 0", "first"),
             Retrieved(1, 1.0, "dictionary, neighbor 1", "second, and its ")],
        ),
        ChunkNeighbors(14, 22, []),
    ]  # fmt: skip


def test_sources_of_an_index(model: Retro, live: LiveRetriever) -> None:
    (generation,) = Generator(model, TOKENIZER, live, num_neighbors=3).generate(["violin granite"], GREEDY)
    text = b"violin granite" + bytes(generation.tokens)
    assert len(generation.neighbors) == 4
    for chunk in generation.neighbors:
        found = live.retrieve_text([text[chunk.start : chunk.end].decode(errors="replace")], 3)
        ids = [neighbor.id for neighbor in chunk.neighbors]
        if text[chunk.start : chunk.end].isascii():
            assert ids == found.ids[0][found.ids[0] >= 0].tolist()
        for neighbor in chunk.neighbors:
            assert neighbor.source == live.source(neighbor.id)
            tokens, mask = live.database.neighbor_tokens([neighbor.id])
            assert neighbor.text == TOKENIZER.decode(tokens[mask].tolist())
    assert len(generation.neighbors[0].neighbors) == 3


def test_the_end_of_a_document_is_no_part_of_what_is_looked_for(model: Retro) -> None:
    retriever = DictionaryRetriever({(TOKENIZER.eod_id,): [list(b"nothing")], (): [list(b"everything")]}, M)
    (generation,) = Generator(model, TOKENIZER, retriever).generate([""], replace(GREEDY, max_new_tokens=1))
    assert [neighbor.text for neighbor in generation.neighbors[0].neighbors] == ["everything"]


def test_without_a_gate_or_a_retriever_the_decoder_writes_alone(model: Retro, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Generator(model.to_gpt(), TOKENIZER).generate(PROMPTS, SAMPLED)
    assert Generator(model, TOKENIZER).generate(PROMPTS, SAMPLED) == expected
    retriever = DictionaryRetriever({}, M)
    monkeypatch.setattr(retriever, "retrieve", lambda *_: pytest.fail("it was asked"))
    model.encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder ran"))
    assert Generator(model, TOKENIZER, retriever, gate=0).generate(PROMPTS, SAMPLED) == expected


def test_half_a_gate_is_half_a_gate(model: Retro) -> None:
    known: dict = {}
    full_passes(model, "falcon me", replace(GREEDY, max_new_tokens=1), made_up, known)
    halved = Generator(model, TOKENIZER, DictionaryRetriever(known, M), gate=0.5)
    (generation,) = halved.generate(["falcon me"], replace(GREEDY, max_new_tokens=1))
    given = as_tensors([made_up(list(b"f")), made_up(list(b"alcon me"))])
    with torch.no_grad():
        logits = model(torch.tensor([list(b"falcon me")]), *given, gate=0.5)[0, -1, :257]
    assert generation.tokens == [int(logits.argmax())]


def test_neighbors_are_sought_encoded_and_projected_once_a_chunk(model: Retro, live: LiveRetriever) -> None:
    asked, encoded, projected = [], [], []
    retriever = ExcludingRetriever(live, lambda id: False)  # a new object, whose method can be counted
    find = retriever.retrieve
    retriever.retrieve = lambda tokens, *rest: (asked.append(len(tokens)), find(tokens, *rest))[1]  # pyright: ignore[reportAttributeAccessIssue]
    model.encoder.register_forward_pre_hook(lambda *_: encoded.append(1))
    for layer in model.retro_layers.values():
        layer.cross_attention.key_value.register_forward_pre_hook(lambda *_: projected.append(1))
    Generator(model, TOKENIZER, retriever).generate(["the harbor in winter"], GREEDY)
    assert asked == [3, 1, 1]  # the prompt's 3 chunks in one go, then one every 8 of the 21 tokens
    assert len(encoded) == 3
    assert len(projected) == 6


@pytest.mark.gpu
def test_a_gpu_says_the_same(model: Retro, live: LiveRetriever) -> None:
    expected = Generator(model, TOKENIZER, live).generate(PROMPTS, GREEDY)
    assert Generator(model.cuda(), TOKENIZER, live).generate(PROMPTS, GREEDY) == expected


def test_what_does_not_fit_together_is_refused(model: Retro, live: LiveRetriever, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a Retro, which reads neighbors, got a GPT"):
        Generator(GPT(DECODER), TOKENIZER, live)
    with pytest.raises(ValueError, match=r"expected chunks of 8 tokens.* got an index of chunks of 4; prepare one"):
        Generator(model, TOKENIZER, DictionaryRetriever({}, 4))
    with pytest.raises(ValueError, match=r"num_neighbors: expected at least 1, got 0"):
        Generator(model, TOKENIZER, live, num_neighbors=0)
    with pytest.raises(ValueError, match=r"retrieval_stride: expected 1 to 8 tokens .*, got 9"):
        Generator(model, TOKENIZER, live, retrieval_stride=9)

    class Other(ByteTokenizer):
        fingerprint = "another"

    for retriever in (live, ExcludingRetriever(live, lambda id: False)):
        with pytest.raises(ValueError, match=r"holds tokens of another tokenizer than the model's; prepare an index"):
            Generator(model, Other(), retriever)
