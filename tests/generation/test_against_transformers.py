"""Hugging Face's generate says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retrolit.checkpoint import load_model
from retrolit.checkpoint.huggingface import from_huggingface
from retrolit.generation import Generator, SamplingConfig
from retrolit.tokens import ByteTokenizer

PROMPTS = ["a", "the quick brown fox", "naïve", "x" * 30]
SIZES = {"vocab_size": 260, "bos_token_id": 256, "eos_token_id": 256}


def gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SIZES)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, **SIZES,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("family", [gpt2, llama])
def test_greedy_generation_agrees_in_a_ragged_batch(family: Any, penalty: float, tmp_path: Path) -> None:
    theirs = family().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    theirs.save_pretrained(tmp_path / "theirs")
    from_huggingface(tmp_path / "theirs", tmp_path / "ours")
    generator = Generator(load_model(tmp_path / "ours"), ByteTokenizer())
    sampling = SamplingConfig(max_new_tokens=24, temperature=0, repetition_penalty=penalty)
    ours = generator.generate(PROMPTS, sampling)
    for prompt, generation in zip(PROMPTS, ours, strict=True):
        tokens = torch.tensor([generator.tokenizer.encode(prompt)])
        suppressed = list(range(257, 260))  # ids without a text, which we never draw
        expected = theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=24, do_sample=False, pad_token_id=256,
            repetition_penalty=penalty, suppress_tokens=suppressed,
        )[0, tokens.shape[1] :].tolist()  # fmt: skip
        assert generation.tokens == [token for token in expected if token != 256]
    assert len({tuple(generation.tokens) for generation in ours}) > 1
