"""One training step (forward, backward, AdamW) of Retro against that of its own decoder as a GPT: time and memory.

    python -m benchmarks.retro_step

The decoder is that of benchmarks.train_step: 12 layers, width 256, 4 heads, MLP 1024, vocabulary 8192; 4 x 512 tokens
a step, float32, 2 threads, fused AdamW. Retro layers 6, 9 and 12, an encoder of 2 layers as wide as the decoder, chunks
of 64 tokens with 2 neighbors of 128 tokens: the encoder reads 4 tokens for each one of the decoder's. "padded": the
same with a mask that hides the last quarter of the neighbors of every other chunk.

Time: CPU seconds of the process (all threads) a step, the models taking turns in one process; medians. The goal is the
ratio of the two models' FLOPs, which counts matrix products alone. Memory: the highest resident size during three steps
less the size before the first, each model in a process of its own; it includes AdamW's state and what the allocator
keeps between tensors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.machine import describe
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig

BATCH, LENGTH, VOCABULARY = 4, 512, 8192
THREADS = 2
DECODER = GPTConfig(
    vocab_size=VOCABULARY, hidden_size=256, num_layers=12, num_attention_heads=4, max_position_embeddings=LENGTH,
    position_embedding="learned", activation="gelu_tanh", tied_embeddings=True,
)  # fmt: skip
RETRO = RetroConfig(DECODER, retro_layers=[6, 9, 12], chunk_length=64, num_neighbors=2, num_retrieved_chunks=2)
MODELS = ("gpt", "retro", "retro padded")
MEMORY_GOAL_MIB = 1000


def make_step(name: str) -> Callable[[], float]:
    """A function that trains one step on random tokens and gives the loss."""
    torch.manual_seed(0)
    model = GPT(DECODER) if name == "gpt" else Retro(RETRO)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    inputs = [tokens[:, :-1], tokens[:, 1:]]
    if isinstance(model, Retro):
        shape = (BATCH, LENGTH // RETRO.chunk_length, RETRO.num_neighbors, RETRO.retrieved_length)
        mask = None
        if name == "retro padded":
            mask = torch.ones(shape, dtype=torch.bool)
            mask[:, ::2, :, -RETRO.retrieved_length // 4 :] = False
        inputs += [None, torch.randint(0, VOCABULARY, shape), mask]

    def step() -> float:
        loss = model.loss(*inputs).mean
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure_times(rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU and wall seconds a step of each model, taking turns."""
    steps = {name: make_step(name) for name in MODELS}
    for step in steps.values():
        for _ in range(3):
            step()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in MODELS}
    for _ in range(rounds):
        for name, step in steps.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {"cpu": statistics.median(cpu for cpu, _ in all_), "wall": statistics.median(wall for _, wall in all_)}
        for name, all_ in spent.items()
    }


def measure_memory(name: str) -> int:
    """Bytes that three steps need above the built model, by the highest resident size of this process (Linux)."""
    step = make_step(name)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # VmHWM starts again from the present size
    before = _status("VmRSS")
    for _ in range(3):
        step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each model")
    parser.add_argument("--memory-of", choices=MODELS, help="measure one model's memory in this process, print bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of)))
        return
    print(describe())
    with torch.device("meta"):
        parts = Retro(RETRO).flops_by_part(LENGTH)
    goal = sum(parts.values()) / parts["decoder"]
    print("GFLOP a step: " + ", ".join(f"{part} {n * BATCH * LENGTH / 1e9:.0f}" for part, n in parts.items()))
    figures = measure_times(arguments.rounds)
    for name, figure in figures.items():
        command = [sys.executable, "-m", "benchmarks.retro_step", "--memory-of", name]
        memory = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**20
        tokens = BATCH * LENGTH / figure["wall"]
        print(
            f"{name:<14} CPU {figure['cpu'] * 1000:6.0f} ms   wall {figure['wall'] * 1000:6.0f} ms   "
            f"{tokens:6.0f} tokens/s   memory {memory:5.0f} MiB"
            + (f" (goal {MEMORY_GOAL_MIB})" if name != "gpt" else "")
        )
    for name in MODELS[1:]:
        print(f"{name} / gpt: CPU {figures[name]['cpu'] / figures['gpt']['cpu']:.2f} (goal {goal:.2f})")


if __name__ == "__main__":
    main()
