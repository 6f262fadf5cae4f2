"""Text that is written beside given neighbors is the text that full passes over everything give."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from retrolit.generation import Generator, GivenNeighbors, SamplingConfig
from retrolit.models import GPT, Retro, RetroConfig
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import DECODER, build

M, K, R = 8, 2, 16
GREEDY = SamplingConfig(max_new_tokens=21, temperature=0)
PROMPTS = ["r", "violin ", "granite ", "falcon me", "the harbor in winter, a", "", "anchor pepper saddle, copper"]
TOKENIZER = ByteTokenizer()
TEXTS = [TOKENIZER.encode(text) for text in ("title: owls, source: barn", "meadow", "copper and granite of winter")]
GIVEN = [TEXTS[:2], TEXTS[1:], TEXTS[:1], [], TEXTS[2:], TEXTS[:2], TEXTS[1:2]]


def attending_padding() -> Retro:
    """As NVIDIA's models."""
    model = build()
    copy = Retro(RetroConfig(DECODER, retro_layers=[2, 3], chunk_length=M, mask_padding=False)).eval()
    copy.load_state_dict(model.state_dict())
    return copy


@torch.no_grad()
def full_passes(model: Retro, prompt: str, texts: Sequence[list[int]], whole_prompt: bool, gate: float) -> list[int]:
    """Every token by one pass over the whole text, filled up until the prompt's end is where a chunk ends."""
    tokens = TOKENIZER.encode(prompt) or [TOKENIZER.eod_id]
    start = len(tokens)
    length = start if whole_prompt else M
    neighbors, mask = torch.full((K, R), TOKENIZER.eod_id), torch.zeros(K, R, dtype=torch.bool)
    for rank, text in enumerate(texts):
        cut = torch.tensor(text[:R])
        neighbors[rank, : len(cut)], mask[rank, : len(cut)] = cut, True
    while len(tokens) - start < GREEDY.max_new_tokens:
        filled = torch.tensor([tokens + [0] * ((start - len(tokens)) % length)])
        shape = (1, -(-filled.shape[1] // length), K, R)
        logits = model(filled, neighbors.expand(shape), mask.expand(shape), gate, length)
        token = int(logits[0, len(tokens) - 1, : TOKENIZER.vocab_size].argmax())
        if token == TOKENIZER.eod_id:
            break
        tokens.append(token)
    return tokens[start:]


@pytest.mark.parametrize("gate", [1.0, 0.5])
@pytest.mark.parametrize("whole_prompt", [False, True])
@pytest.mark.parametrize("make", [build, attending_padding])
def test_a_ragged_batch_equals_full_passes(make, whole_prompt: bool, gate: float) -> None:
    model = make()
    given = GivenNeighbors(GIVEN, gate, whole_prompt)
    together = Generator(model, TOKENIZER).generate(PROMPTS, GREEDY, given=given)
    expected = [
        full_passes(model, prompt, texts, whole_prompt, gate) for prompt, texts in zip(PROMPTS, GIVEN, strict=True)
    ]
    assert [generation.tokens for generation in together] == expected
    alone = Generator(model, TOKENIZER).generate(PROMPTS, GREEDY)
    changed = [one.tokens != other.tokens for one, other in zip(together, alone, strict=True)]
    assert changed[3] is False, "nothing was given with this one"
    assert sum(changed) >= 4


def test_with_gate_0_the_decoder_writes_alone() -> None:
    model = build()
    alone = Generator(model.to_gpt(), TOKENIZER).generate(PROMPTS, GREEDY)
    assert Generator(model, TOKENIZER).generate(PROMPTS, GREEDY, given=GivenNeighbors(GIVEN, gate=0)) == alone


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="given: expected a Retro, which reads neighbors, got a GPT"):
        Generator(GPT(DECODER), TOKENIZER).generate(PROMPTS, GREEDY, given=GivenNeighbors(GIVEN))
    with pytest.raises(ValueError, match=r"given\.texts: expected those of 1 prompts, got 7"):
        Generator(build(), TOKENIZER).generate(["a"], GREEDY, given=GivenNeighbors(GIVEN))
