"""One training step of Retro beside other implementations of it: tokens a second, CPU time, memory.

    python -m benchmarks.retro_step [--rounds 9] [--ours | --environments FOLDER]

The model is that of benchmarks.peers.sizes, ours four times: as a new one is made by default, with rotary positions in
encoder and cross-attention; "as peers", without these, which is the work that the peers do; "padded", with a mask that
hides the last quarter of the neighbors of every other chunk; and "recomputing", with `checkpoint_activations`. A step
is forward, backward and fused AdamW on 4 x 512 tokens in float32 with 2 threads. What is special about a peer is told
in its file in benchmarks/peers; --ours leaves them out. Each implementation runs in a process of its own; they take
turns, and medians are compared. Memory is the highest resident size during the first three steps less the size of the
process with the model built: AdamW's state and what the allocator keeps between tensors are in it.

Goals: at least 1.6 times the tokens a second of the fastest peer, at most half the memory of the leanest, and no more
than the ratio of the FLOPs, which counts matrix products alone, times the CPU time of our own GPT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.machine import describe
from benchmarks.peers import sizes
from benchmarks.peers.retrolit_models import RETRO
from benchmarks.peers.rounds import DEFAULT_ENVIRONMENTS, take_turns
from retrolit.models import Retro

OURS = ("retrolit", "retrolit, as peers", "retrolit, padded", "retrolit, recomputing")
PEERS = ("retro-pytorch", "megatron-core")
TOKENS = sizes.TRAIN_BATCH * sizes.TRAIN_LENGTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each implementation")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, help="where peers are installed")
    options = parser.parse_args()
    print(describe())
    with torch.device("meta"):
        parts = Retro(RETRO).flops_by_part(sizes.TRAIN_LENGTH)
    flops = sum(parts.values()) / parts["decoder"]
    print("GFLOP a step: " + ", ".join(f"{part} {n * TOKENS / 1e9:.0f}" for part, n in parts.items()))
    peers = () if options.ours else PEERS
    figures = take_turns([*OURS, "retrolit GPT", *peers], "train", options.rounds, options.environments)
    for name, measured in figures.items():
        print(
            f"{name:21} {TOKENS / measured.median('wall'):6.0f} tokens/s  CPU {measured.median('cpu') * 1000:6.0f} ms  "
            f"memory {measured.facts['memory'] / 2**20:5.0f} MiB  loss {measured.facts['losses'][-1]:.3f}"
        )
    others = [figures[name] for name in peers if name in figures]
    for name in OURS:
        ours = figures[name]
        cost = ours.median("cpu") / figures["retrolit GPT"].median("cpu")
        print(f"{name}\n  CPU time / our GPT's: {cost:.2f} (goal: at most {flops:.2f})")
        if others:
            speed = min(other.median("wall") for other in others) / ours.median("wall")
            memory = ours.facts["memory"] / min(other.facts["memory"] for other in others)
            print(f"  tokens/s / fastest peer's: {speed:.2f} (goal: at least 1.6)")
            print(f"  memory / leanest peer's: {memory:.2f} (goal: at most 0.5)")


if __name__ == "__main__":
    main()
