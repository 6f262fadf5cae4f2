"""Generation with given neighbors beside other implementations of Retro, and beside GPT-2 without any.

    python -m benchmarks.retro_generation [--rounds 3] [--ours | --environments FOLDER]

The model is that of benchmarks.peers.sizes with random weights; a prompt of 128 tokens is continued greedily by 256,
one text at a time, in float32 with 2 threads. The neighbors of each chunk are there when it is complete, so that no
search is measured. Ours keeps what it has read (RetroCache); the peers have no cache for Retro, so they read all tokens
and neighbors again for every new token. GPT-2 is the decoder alone with Hugging Face's KV cache, by its `generate` and
by a bare loop; ours is a bare loop too. Each runs in a process of its own; they take turns, and medians are compared.

--ours leaves the Retro peers out, which take a minute and a half a round.

Goals: at least 14 times the tokens a second of the fastest Retro peer, and at least 1.2 times those of GPT-2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import sizes
from benchmarks.peers.rounds import DEFAULT_ENVIRONMENTS, take_turns

PEERS = ("retro-pytorch", "megatron-core")
LOWER_BOUNDS = ("GPT-2, generate", "GPT-2, bare loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="texts of each implementation")
    parser.add_argument("--ours", action="store_true", help="without the Retro peers")
    parser.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, help="where peers are installed")
    options = parser.parse_args()
    print(describe("transformers"))
    names = ["retrolit", "retrolit GPT", *LOWER_BOUNDS, *(() if options.ours else PEERS)]
    figures = take_turns(names, "generate", options.rounds, options.environments)
    for name, measured in figures.items():
        print(f"{name:18} {sizes.NEW / measured.median('wall'):7.1f} tokens/s  CPU {measured.median('cpu'):6.2f} s")
    ours = figures["retrolit"].median("wall")
    for what, group, goal in (("fastest Retro peer", PEERS, 14), ("GPT-2", LOWER_BOUNDS, 1.2)):
        theirs = {name: figures[name].median("wall") / ours for name in group if name in figures}
        if theirs:
            told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in theirs.items())
            print(f"tokens/s / {what}'s: {min(theirs.values()):.2f} (goal: at least {goal}; {told})")


if __name__ == "__main__":
    main()
