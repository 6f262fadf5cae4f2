"""The likelihood of a continuation is that of a full pass, and with retrieval that of writing it token by token."""

from __future__ import annotations

import pytest
import torch

from retrolit.evaluation.continuations import likelihoods
from retrolit.generation import Generator, SamplingConfig
from retrolit.generation.reading import PIECE
from retrolit.generation.retrieval import RetrievingReading
from retrolit.models import GPT, GPTConfig, Retro
from retrolit.retrieval import LiveRetriever
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import DECODER, build, prepare_index

CODEC = ByteTokenizer()
PAIRS = [
    (CODEC.encode(context), CODEC.encode(continuation))
    for context, continuation in (
        ("copper", " violin"), ("a", "b"), ("the river and the meadow in winter", " anchor, saddle and pepper"),
        ("falcon", "s"),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> LiveRetriever:
    return LiveRetriever(prepare_index(tmp_path_factory.mktemp("index") / "prepared"))


@torch.no_grad()
def full_pass(model: GPT, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    logits = model(torch.tensor([context + continuation[:-1]]))[0, len(context) - 1 :, : CODEC.vocab_size]
    chances, tokens = logits.log_softmax(-1), torch.tensor(continuation)
    return float(chances.gather(-1, tokens[:, None]).sum()), bool((chances.argmax(-1) == tokens).all())


@torch.no_grad()
def token_by_token(generator: Generator, context: list[int], continuation: list[int]) -> float:
    """As `Generator` writes: one step after the other, neighbors sought on the way."""
    assert isinstance(generator.model, Retro)
    assert generator.retrieval is not None
    reading = RetrievingReading(generator.model, generator.retrieval, CODEC, [context], len(continuation), [[]])
    logits, total = reading.prompts(), 0.0
    for number, token in enumerate(continuation):
        total += float(logits[0, : CODEC.vocab_size].log_softmax(-1)[token])
        if number + 1 < len(continuation):
            logits = reading.next(torch.tensor([token]))
    return total


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_gpt_gives_what_a_full_pass_gives(batch_size: int) -> None:
    generator = Generator(build().to_gpt(), CODEC)
    assert isinstance(generator.model, GPT)
    (made,) = generator.generate(["copper"], SamplingConfig(max_new_tokens=9, temperature=0))
    pairs = [*PAIRS, (PAIRS[0][0], made.tokens)]
    found = likelihoods(generator, pairs, batch_size)
    expected = [full_pass(generator.model, list(context), list(continuation)) for context, continuation in pairs]
    assert [one.greedy for one in found] == [greedy for _, greedy in expected]
    assert found[-1].greedy, "what the model writes itself is the likeliest"
    assert [one.log_probability for one in found] == pytest.approx([total for total, _ in expected], abs=1e-3)


@pytest.mark.parametrize("stride", [None, 3])
def test_a_retro_retrieves_as_when_it_writes(stride: int | None, retriever: LiveRetriever) -> None:
    generator = Generator(build(), CODEC, retriever, retrieval_stride=stride)
    (made,) = generator.generate(["copper"], SamplingConfig(max_new_tokens=20, temperature=0))
    pairs = [*PAIRS, (PAIRS[0][0], made.tokens)]
    found = likelihoods(generator, pairs, 3)
    assert found[-1].greedy
    expected = [token_by_token(generator, list(context), list(continuation)) for context, continuation in pairs]
    assert [one.log_probability for one in found] == pytest.approx(expected, abs=1e-3)
    alone = likelihoods(Generator(generator.model, CODEC), pairs, 3)
    assert abs(alone[2].log_probability - found[2].log_probability) > 0.1, "the neighbors are read"


def test_a_long_context_loses_its_beginning() -> None:
    config = GPTConfig(
        vocab_size=257, hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=PIECE + 20,
        position_embedding="learned",
    )  # fmt: skip
    generator = Generator(GPT(config).eval(), CODEC)
    assert isinstance(generator.model, GPT)
    said = torch.randint(256, (PIECE + 9,)).tolist()
    long = torch.randint(256, (900,)).tolist()
    (found,) = likelihoods(generator, [(long, said)])
    total, _ = full_pass(generator.model, long[-12:], said)
    assert found.log_probability == pytest.approx(total, abs=0.02)
    for context, continuation in (([], [1]), ([1], []), ([1], [1] * (PIECE + 21))):
        with pytest.raises(ValueError, match=r"likelihoods: expected contexts of at least one token and continuations"):
            likelihoods(generator, [(context, continuation)])


def test_models_of_another_vocabulary_size_share_the_chances_among_the_tokenizers_ids() -> None:
    generator = Generator(GPT(GPTConfig(**{**vars(DECODER), "vocab_size": 300})).eval(), CODEC)
    assert isinstance(generator.model, GPT)
    (found,) = likelihoods(generator, PAIRS[:1])
    assert found.log_probability == pytest.approx(full_pass(generator.model, *map(list, PAIRS[0]))[0], abs=1e-3)
