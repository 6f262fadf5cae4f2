"""Tokens a second of generation, beside Hugging Face's `generate` with its KV cache on the same weights.

    python -m benchmarks.generation

A GPT-2 of 12 layers, width 256, 4 heads and 8192 tokens, random weights, float32, 2 threads, greedy: a prompt of 128
tokens is continued by 256. Both must draw the same tokens, so both do the same work. The rounds of all ways are
interleaved and medians compared. The goal is 1.3 times Hugging Face's tokens a second with one prompt.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers

from benchmarks.machine import describe
from retrolit.checkpoint import load_model
from retrolit.checkpoint.huggingface import from_huggingface
from retrolit.generation import Generator, SamplingConfig

PROMPT, NEW, BATCH, VOCABULARY = 128, 256, 16, 8192
ROUNDS = 5
GOAL = 1.3


class NumberTokenizer:
    """Text is numbers: the cheapest tokenizer there is, so that the models are what is measured."""

    vocab_size = VOCABULARY
    eod_id = -1  # no token ends the text: every prompt is continued to the full length
    fingerprint = "numbers"
    special_tokens: dict[str, int] = {}  # noqa: RUF012

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(i) for i in ids)


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=256, n_layer=12, n_head=4, n_positions=512, vocab_size=VOCABULARY,
            bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for parameter in theirs.parameters():  # enough spread for texts that do not repeat one token
            parameter.add_(torch.randn_like(parameter) * 0.05)
        theirs.save_pretrained(Path(folder) / "theirs")
        from_huggingface(Path(folder) / "theirs", Path(folder) / "ours")
        generator = Generator(load_model(Path(folder) / "ours"), NumberTokenizer())
    tokens = torch.randint(VOCABULARY, (BATCH, PROMPT))
    prompts = [generator.tokenizer.decode(row) for row in tokens.tolist()]
    greedy = SamplingConfig(max_new_tokens=NEW, temperature=0)

    def ours(batch: int) -> list[list[int]]:
        return [generation.tokens for generation in generator.generate(prompts[:batch], greedy, batch_size=batch)]

    def huggingface(batch: int) -> list[list[int]]:
        inputs = tokens[:batch]
        made = theirs.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )
        return made[:, PROMPT:].tolist()

    ways: dict[str, tuple[int, Callable[[], list[list[int]]]]] = {
        "retrolit, batch 1": (1, lambda: ours(1)),
        "Hugging Face, batch 1": (1, lambda: huggingface(1)),
        f"retrolit, batch {BATCH}": (BATCH, lambda: ours(BATCH)),
        f"Hugging Face, batch {BATCH}": (BATCH, lambda: huggingface(BATCH)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):  # the first one warms up
        drawn = {}
        for name, (batch, generate) in ways.items():
            start = time.perf_counter()
            drawn[name] = generate()
            if number > 0:
                rates[name].append(batch * NEW / (time.perf_counter() - start))
        ours_first, theirs_first, *_ = drawn.values()
        assert ours_first == theirs_first, "not the same tokens, so not the same work"
    print(describe("transformers"))
    print(f"greedy, {PROMPT} + {NEW} tokens, float32, {torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"  {name:24} {rate:8.1f} tokens/s")
    one, their_one, many, their_many = medians.values()
    print(f"  retrolit / Hugging Face, batch 1:  {one / their_one:.2f} (goal: at least {GOAL})")
    print(f"  retrolit / Hugging Face, batch {BATCH}: {many / their_many:.2f}")
    print(f"  retrolit, batch {BATCH} / batch 1:      {many / one:.2f}")


if __name__ == "__main__":
    main()
