"""One tuning step of a Retro with gate 0 against that of its decoder as a plain GPT: time and memory.

    python -m benchmarks.instruct_step

The models are those of benchmarks.peers (Retro layers 6, 9 and 12, an encoder of 2 layers), 4 x 512 tokens a step
of which the last three quarters are trained, float32, 2 threads, fused AdamW as InstructRetroModule makes it: encoder
and cross-attention are neither run nor in the optimizer. The goal is a ratio of at most 1.02, of time and of memory.
Memory is that above the built model, so it does not count the encoder's weights, which lie there unused.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.machine import describe
from benchmarks.peers.retrolit_models import DECODER, RETRO
from benchmarks.peers.sizes import THREADS, VOCABULARY
from benchmarks.peers.sizes import TRAIN_BATCH as BATCH
from benchmarks.peers.sizes import TRAIN_LENGTH as LENGTH
from benchmarks.steps import memory_above_model, memory_in_own_process, take_turns, training_step
from retrolit.data.batch import Batch
from retrolit.training import InstructRetroModule, OptimizerConfig
from retrolit.training.optimizer import make_optimizer

CONFIGS = {"gpt": DECODER, "retro, gate 0": RETRO}
GOAL = 1.02


def make_step(name: str) -> Callable[[], float]:
    """A function that trains one step on random tokens and gives the loss."""
    torch.manual_seed(0)
    module = InstructRetroModule(CONFIGS[name])
    module.configure_model()
    assert module.model is not None
    optimizer = make_optimizer(module.model, OptimizerConfig(lr=1e-4))
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    mask = (torch.arange(LENGTH) >= LENGTH // 4).float().expand(BATCH, LENGTH)
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), mask)

    return training_step(lambda: module.loss(batch).mean, optimizer)


def main() -> None:
    """Measures both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each model")
    parser.add_argument("--memory-of", choices=tuple(CONFIGS), help="measure one model's memory here, print bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.memory_of:
        print(memory_above_model(partial(make_step, arguments.memory_of)))
        return
    print(describe())
    figures = take_turns({name: make_step(name) for name in CONFIGS}, arguments.rounds)
    memory = {name: memory_in_own_process("benchmarks.instruct_step", name) / 2**20 for name in CONFIGS}
    for name, figure in figures.items():
        print(
            f"{name:<14} CPU {figure['CPU time'] * 1000:6.0f} ms   wall {figure['wall'] * 1000:6.0f} ms   "
            f"memory {memory[name]:5.0f} MiB"
        )
    gpt, retro = CONFIGS
    time = figures[retro]["CPU time"] / figures[gpt]["CPU time"]
    print(f"{retro} / {gpt}: CPU {time:.3f}, memory {memory[retro] / memory[gpt]:.3f} (goal {GOAL})")


if __name__ == "__main__":
    main()
