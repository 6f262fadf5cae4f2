"""What `retrolit test` costs beside the bare forward passes over the same batches.

    python -m benchmarks.evaluation

The quickstart's GPT, random weights, on a test split of made-up documents (about 65,000 tokens, 512 a window, 4 windows
a batch). The bare pass runs the model over every batch and keeps nothing. The rounds take turns and medians of CPU time
are compared. The goal is 1.1 times the bare pass, with reading, measures, bootstrap and results.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch

from benchmarks.machine import describe
from retrolit.data import DataConfig
from retrolit.models import GPTConfig
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.training import Evaluation, GPTModule, PretrainingData

GOAL = 1.1
CONFIG = GPTConfig(
    vocab_size=8192, hidden_size=256, num_layers=6, num_attention_heads=4, max_position_embeddings=512,
    normalization="rmsnorm", activation="swiglu", bias=False, tied_embeddings=True,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = _data(Path(folder), arguments.documents)
        module = GPTModule(CONFIG)
        trainer = L.Trainer(
            default_root_dir=folder, accelerator="cpu", devices=1, logger=False, callbacks=[Evaluation()],
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.test(module, data, verbose=False)  # prepares the data, and builds the model
        samples, numbers = data.evaluation_samples("test"), data.evaluation_numbers("test")
        batches = [samples[list(number)] for number in numbers]

        def bare() -> None:
            with torch.inference_mode():
                for batch in batches:
                    module.loss(batch)

        ways: dict[str, Callable[[], object]] = {
            "bare forward": bare,
            "retrolit test": lambda: trainer.test(module, data, verbose=False),
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                begin = time.process_time()
                way()
                spent[name].append(time.process_time() - begin)
        tokens = sum(int(batch.loss_mask.sum()) for batch in batches)
    print(describe())
    seconds = {name: statistics.median(times) for name, times in spent.items()}
    for name, value in seconds.items():
        print(f"{name:14} {value:7.2f} s CPU for {tokens:,} tokens")
    print(f"ratio          {seconds['retrolit test'] / seconds['bare forward']:.3f} (goal {GOAL})")


def _data(folder: Path, num_documents: int) -> PretrainingData:
    """Documents of words of a small language, tokenized by words' letters as a BPE does."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(20_000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(20, 200))) for _ in range(2 * num_documents)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = DataConfig(
        folder=str(folder / "prepared"),
        tokens=TokensConfig(
            corpora={"words": CorpusConfig(str(folder / "texts.jsonl"))},
            tokenizer=TokenizerConfig(type="bpe", vocab_size=8192),
            splits={"train": 0.5, "test": 0.5},
        ),
    )
    return PretrainingData(config, sequence_length=512, global_batch_size=4)


if __name__ == "__main__":
    main()
