"""Reading training batches against the step that they are read for.

    python -m benchmarks.reading

Batches of 4 x 512 tokens are cut from two token stores of 20 million tokens each, mixed 1 : 3, in the order of a run
(every sample lies somewhere else), by the loader that training uses, in the training process itself: what it costs is
what training waits. The step is forward, backward and AdamW of a GPT of 12 layers, width 256 and vocabulary 8192, in
float32 on 2 threads. Wall-clock medians; the files are in the system's cache, as they are after a first epoch.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe
from retrolit.data import Loader, PretrainingSamples, TrainingWindows, training_numbers
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import Blend, TokenStore, write_store

BATCH, LENGTH, CHUNK, VOCABULARY = 4, 512, 64, 8192
STORE_TOKENS, DOCUMENT_TOKENS = 20_000_000, 1000
THREADS = 2
GOAL = 0.01


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=7, help="training steps that are timed")
    parser.add_argument("--batches", type=int, default=2000, help="batches that are read and timed")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    print(describe("numpy"))
    with tempfile.TemporaryDirectory() as folder:
        samples = _samples(Path(folder))
        reading = _reading_seconds(samples, arguments.batches)
        step = _step_seconds(samples, arguments.steps)
    print(f"reading a batch of {BATCH} x {LENGTH} tokens  {reading * 1e6:10,.0f} us")
    print(f"a training step                     {step * 1e6:10,.0f} us")
    print(f"share of the step                   {reading / step:10.3%}   (goal: under {GOAL:.0%})")


def _samples(folder: Path) -> PretrainingSamples:
    random = np.random.default_rng(0)
    windows = []
    for name in ("one", "two"):
        documents = (random.integers(0, VOCABULARY, DOCUMENT_TOKENS) for _ in range(STORE_TOKENS // DOCUMENT_TOKENS))
        write_store(folder / name, documents, VOCABULARY)
        windows.append(TrainingWindows(TokenStore(folder / name), LENGTH, CHUNK, seed=1, name=name))
    return PretrainingSamples(windows, Blend([1.0, 3.0], seed=1))


def _reading_seconds(samples: PretrainingSamples, num_batches: int) -> float:
    """Median seconds until the next batch is there."""
    batches = iter(_loader(samples, num_batches))
    times = []
    for _ in range(num_batches):
        begin = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _step_seconds(samples: PretrainingSamples, num_steps: int) -> float:
    """Median seconds of forward, backward and AdamW, after two steps that are not counted."""
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            vocab_size=VOCABULARY, hidden_size=256, num_layers=12, num_attention_heads=4, max_position_embeddings=LENGTH
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    times = []
    for batch in _loader(samples, num_steps + 2):
        begin = time.perf_counter()
        model.loss(batch.tokens, batch.labels, batch.loss_mask).mean.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def _loader(samples: PretrainingSamples, num_batches: int) -> Loader:
    def numbers():
        return training_numbers(0, num_batches, global_batch_size=BATCH, micro_batch_size=BATCH, rank=0, world_size=1)

    return Loader(samples, numbers, num_batches)


if __name__ == "__main__":
    main()
