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
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.machine import describe
from benchmarks.steps import memory_above_model, memory_in_own_process, take_turns, training_step
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

    return training_step(lambda: model.loss(*inputs).mean, optimizer)


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each model")
    parser.add_argument("--memory-of", choices=MODELS, help="measure one model's memory in this process, print bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.memory_of:
        print(memory_above_model(partial(make_step, arguments.memory_of)))
        return
    print(describe())
    with torch.device("meta"):
        parts = Retro(RETRO).flops_by_part(LENGTH)
    goal = sum(parts.values()) / parts["decoder"]
    print("GFLOP a step: " + ", ".join(f"{part} {n * BATCH * LENGTH / 1e9:.0f}" for part, n in parts.items()))
    figures = take_turns({name: make_step(name) for name in MODELS}, arguments.rounds)
    for name, figure in figures.items():
        memory = memory_in_own_process("benchmarks.retro_step", name) / 2**20
        tokens = BATCH * LENGTH / figure["wall"]
        print(
            f"{name:<14} CPU {figure['CPU time'] * 1000:6.0f} ms   wall {figure['wall'] * 1000:6.0f} ms   "
            f"{tokens:6.0f} tokens/s   memory {memory:5.0f} MiB"
            + (f" (goal {MEMORY_GOAL_MIB})" if name != "gpt" else "")
        )
    for name in MODELS[1:]:
        print(f"{name} / gpt: CPU {figures[name]['CPU time'] / figures['gpt']['CPU time']:.2f} (goal {goal:.2f})")


if __name__ == "__main__":
    main()
