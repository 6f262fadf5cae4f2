"""Prompts to text: the cache, the batch and the stream change nothing, and Hugging Face says the same."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from retrolit.generation import Generation, Generator, SamplingConfig
from retrolit.generation.generator import row_seed
from retrolit.generation.reading import PIECE, Reading
from retrolit.generation.sampling import next_tokens
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer

TINY = GPTConfig(vocab_size=260, hidden_size=32, num_layers=2, num_attention_heads=4, max_position_embeddings=128)
CONFIGS = {
    "rope": TINY,
    "learned": replace(TINY, position_embedding="learned"),
    "grouped": replace(TINY, num_query_groups=2, normalization="rmsnorm", activation="swiglu", ffn_hidden_size=None),
}
GREEDY = SamplingConfig(max_new_tokens=20, temperature=0)
SAMPLED = SamplingConfig(max_new_tokens=20, temperature=1.2, top_k=100, top_p=0.95, repetition_penalty=1.2, seed=3)
PROMPTS = ["a", "", "the quick brown fox jumps", "naïve €", "the quick", "x" * 40]


def build(config: GPTConfig) -> GPT:
    """A model whose next token depends much on what came before."""
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def generator(request: pytest.FixtureRequest) -> Generator:
    return Generator(build(request.param), ByteTokenizer())


@pytest.fixture
def tiny() -> Generator:
    return Generator(build(TINY), ByteTokenizer())


@torch.no_grad()
def without_cache(generator: Generator, prompt: str, sampling: SamplingConfig) -> list[int]:
    """The slow loop: the whole text through the model for every token."""
    tokens = generator.tokenizer.encode(prompt) or [generator.tokenizer.eod_id]
    start = len(tokens)
    random = torch.Generator().manual_seed(row_seed(sampling.seed, prompt, 0))
    while len(tokens) - start < sampling.max_new_tokens:
        logits = generator.model(torch.tensor([tokens]))[:, -1, : generator.tokenizer.vocab_size]
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, tokens] = True
        token = int(next_tokens(logits, sampling, [random], seen))
        if token == generator.tokenizer.eod_id:
            break
        tokens.append(token)
    return tokens[start:]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_ragged_batch_equals_each_prompt_alone_without_a_cache(
    generator: Generator, sampling: SamplingConfig
) -> None:
    together = generator.generate(PROMPTS, sampling)
    for prompt, generation in zip(PROMPTS, together, strict=True):
        assert generation.tokens == without_cache(generator, prompt, sampling)
        assert generator.generate([prompt], sampling) == [generation]
        assert "".join(generator.stream(prompt, sampling)) == generation.text
    assert len({tuple(generation.tokens) for generation in together}) > 1


def test_rows_that_end_early_do_not_disturb_the_others(tiny: Generator) -> None:
    prompts = [letter * length for letter in "abcdef" for length in (1, 3, 9)]
    sampling = replace(SAMPLED, stop=[chr(number) for number in range(32, 48)])
    together = tiny.generate(prompts, sampling, batch_size=len(prompts))
    assert together == [tiny.generate([prompt], sampling)[0] for prompt in prompts]
    assert len({len(generation.tokens) for generation in together}) > 3


def test_the_batch_size_and_the_order_change_nothing(tiny: Generator) -> None:
    expected = tiny.generate(PROMPTS, SAMPLED)
    assert tiny.generate(PROMPTS, SAMPLED, batch_size=2) == expected
    assert tiny.generate(PROMPTS[::-1], SAMPLED) == expected[::-1]
    assert tiny.generate([], SAMPLED) == []


def test_the_same_prompt_twice_gives_two_samples(tiny: Generator) -> None:
    first, second, third = tiny.generate(["again"] * 3, SAMPLED, batch_size=2)
    assert len({first.text, second.text, third.text}) == 3
    assert tiny.generate(["again"], SAMPLED) == [first]


def test_seeds(tiny: Generator) -> None:
    texts = [tiny.generate(["once"], replace(SAMPLED, seed=seed))[0].text for seed in (1, 1, 2, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4
    torch.manual_seed(5)
    first = tiny.generate(["once"], replace(SAMPLED, seed=None))
    torch.manual_seed(5)
    assert tiny.generate(["once"], replace(SAMPLED, seed=None)) == first


def test_greedy_and_seeded_generation_leave_torchs_random_state_alone(tiny: Generator) -> None:
    before = torch.get_rng_state()
    tiny.generate(["a", "b"], GREEDY)
    tiny.generate(["a", "b"], SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)


def successor_model(follows: dict[int, int]) -> GPT:
    """A GPT that answers each token of `follows` with its successor: one-hot embeddings, layers that add nothing."""
    config = GPTConfig(
        vocab_size=257, hidden_size=257, num_layers=1, num_attention_heads=1, max_position_embeddings=64,
        position_embedding="none", final_norm=False, ffn_hidden_size=4,
    )  # fmt: skip
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight.copy_(torch.eye(257))
        assert model.output is not None
        for token, successor in follows.items():
            model.output.weight[successor, token] = 1.0
    return model


ALPHABET = {letter: letter + 1 for letter in range(97, 122)} | {122: 256, 256: 97}


def test_rows_end_each_for_their_own_reason() -> None:
    generator = Generator(successor_model(ALPHABET), ByteTokenizer())
    sampling = SamplingConfig(max_new_tokens=8, temperature=0, stop=["fg", "i"])
    expected = [
        Generation("yz", [121, 122], "end"),
        Generation("bcde", [98, 99, 100, 101, 102, 103], "stop"),
        Generation("klmnopqr", list(range(107, 115)), "length"),
        Generation("", [105], "stop"),
        Generation("", [], "end"),
    ]
    prompts = ["uvwx", "a", "j", "fgh", "z"]
    assert generator.generate(prompts, sampling) == expected
    for prompt, generation in zip(prompts, expected, strict=True):
        assert "".join(generator.stream(prompt, sampling)) == generation.text


def test_an_empty_prompt_starts_from_the_end_of_document_token() -> None:
    generator = Generator(successor_model(ALPHABET), ByteTokenizer())
    assert generator.generate([""], replace(GREEDY, max_new_tokens=3))[0].text == "abc"


def test_a_stream_gives_each_piece_at_once() -> None:
    generator = Generator(successor_model(ALPHABET), ByteTokenizer())
    assert list(generator.stream("a", SamplingConfig(max_new_tokens=4, temperature=0, stop="cx"))) == ["b", "cd", "e"]


def test_finished_rows_are_no_longer_computed() -> None:
    generator = Generator(successor_model(ALPHABET), ByteTokenizer())
    rows = []
    generator.decoder.embedding.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    generator.generate(["z", "y", "x", "u"], GREEDY)
    assert rows == [4, 3, 2, 1, 1, 1]


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn(tiny: Generator) -> None:
    assert tiny.model.output is not None
    with torch.no_grad():
        tiny.model.output.weight[257:] *= 100
    tokens = tiny.generate(PROMPTS, replace(SAMPLED, top_k=None))
    assert max(max(generation.tokens, default=0) for generation in tokens) < 257


def test_a_model_in_training_generates_without_dropout_and_goes_on_training(tiny: Generator) -> None:
    expected = tiny.generate(["a"], GREEDY)
    dropping = Generator(GPT(replace(TINY, hidden_dropout=0.5, attention_dropout=0.5)), ByteTokenizer())
    dropping.model.load_state_dict(tiny.model.state_dict())
    assert dropping.generate(["a"], GREEDY) == expected
    assert dropping.model.training
    assert dropping.model.layers[0].training


def test_a_model_trains_after_its_first_use_was_generation(generator: Generator) -> None:
    generator.generate(["a", "bc"], GREEDY)
    tokens = torch.randint(257, (2, 9))
    generator.model.loss(tokens[:, :-1], tokens[:, 1:]).mean.backward()
    assert all(parameter.grad is not None for parameter in generator.model.parameters())


def test_reading_gives_the_full_passes_logits(generator: Generator) -> None:
    model = generator.decoder
    with torch.no_grad():
        reading = Reading(model, [[1, 2, 3], [4, 5, 6, 7, 8]], max_new_tokens=2)
        logits = reading.prompts()
        torch.testing.assert_close(logits[0], model(torch.tensor([[1, 2, 3]]))[0, -1], atol=1e-5, rtol=1e-5)
        step = reading.next(torch.tensor([9, 10]))
        torch.testing.assert_close(step[0], model(torch.tensor([[1, 2, 3, 9]]))[0, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step[1], model(torch.tensor([[4, 5, 6, 7, 8, 10]]))[0, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_smaller_dtype_generates_from_its_own_logits(tiny: Generator, dtype: torch.dtype) -> None:
    tiny.model.to(dtype)
    (generation,) = tiny.generate(["ab"], replace(GREEDY, max_new_tokens=1))
    with torch.no_grad():
        logits = tiny.model(torch.tensor([[97, 98]]))[0, -1, :257]
    assert logits.dtype == dtype
    assert logits[generation.tokens[0]] > logits.max() - 0.1


@pytest.mark.gpu
def test_a_gpu_says_the_same(tiny: Generator) -> None:
    expected = tiny.generate(PROMPTS, GREEDY)
    tiny.model.cuda()
    assert tiny.generate(PROMPTS, GREEDY) == expected
    assert tiny.generate(PROMPTS, SAMPLED) == tiny.generate(PROMPTS, SAMPLED, batch_size=2)


def test_a_long_prompt_is_read_in_pieces() -> None:
    model = build(replace(TINY, max_position_embeddings=2048))
    prompts = [torch.randint(257, (length,)).tolist() for length in (3 * PIECE + 7, PIECE, 1)]
    read = []
    with torch.no_grad():
        expected = [model(torch.tensor([prompt]))[0, -1] for prompt in prompts]
        model.embedding.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].shape[1]))
        reading = Reading(model, prompts, max_new_tokens=1)
        logits = reading.prompts()
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert read == [PIECE, PIECE, PIECE, 7]
    assert reading.cache.length == reading.cache.max_length == 3 * PIECE + 7


def test_too_long_for_learned_positions_is_refused_before_work_starts() -> None:
    generator = Generator(build(CONFIGS["learned"]), ByteTokenizer())
    calls = []
    generator.model.embedding.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=r"at most 128 tokens .* a prompt of 120 .* set max_new_tokens to at most 8"):
        generator.generate(["a", "x" * 120], GREEDY)
    with pytest.raises(ValueError, match="a prompt of 130 and max_new_tokens 20; shorten the prompt"):
        generator.stream("x" * 130, GREEDY)
    assert not calls
    assert generator.generate(["x" * 120], replace(GREEDY, max_new_tokens=8))[0].finish_reason == "length"


def test_beyond_the_length_a_rotary_model_is_meant_for_there_is_a_warning(tiny: Generator) -> None:
    with pytest.warns(UserWarning, match="beyond the 128 tokens the model is meant for"):
        tiny.generate(["x" * 120], GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.generate(["x" * 108], GREEDY)


def test_mistakes_are_refused(tiny: Generator) -> None:
    with pytest.raises(ValueError, match="expected a list of texts, got one text"):
        tiny.generate("hello")
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        tiny.generate(["hello"], batch_size=0)
    with pytest.raises(ValueError, match=r"expected at most the 100 ids the model has .*, got 257"):
        Generator(GPT(replace(TINY, vocab_size=100)), ByteTokenizer())
    with torch.no_grad():
        tiny.model.embedding.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits are not finite"):
        tiny.generate(["hello"], GREEDY)


def test_token_ids_are_continued_like_their_text(tiny: Generator) -> None:
    """A chat template gives ids, some of which no text spells."""
    ids = tiny.tokenizer.encode("the quick")
    texts, mixed = tiny.generate(["the quick", "a"], GREEDY), tiny.generate([ids, "a"], GREEDY)
    assert mixed == texts
    end = [tiny.tokenizer.eod_id, *ids]
    assert tiny.generate([end], GREEDY) != texts[:1]
    assert len({generation.text for generation in tiny.generate([ids, ids, end], SAMPLED)}) == 3
    stream = tiny.stream(ids, GREEDY)
    assert "".join(stream) == texts[0].text
