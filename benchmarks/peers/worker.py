"""The process that measures one implementation: started by `rounds`, it answers every line it reads with one of JSON.

    python -m benchmarks.peers.worker NAME train|generate

It builds the model and says what it is; then each line of its input makes it do one round and say how long that took.
Runs in the implementation's own environment, so that it imports nothing but torch and that implementation.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

from benchmarks.peers import sizes
from benchmarks.peers.sizes import Candidate
from benchmarks.steps import Step, first_steps, training_step

BUILDERS = {
    "retrolit": ("torch", "retrolit_models", "retro"),
    "retrolit, as peers": ("torch", "retrolit_models", "as_peers"),
    "retrolit, padded": ("torch", "retrolit_models", "padded"),
    "retrolit, recomputing": ("torch", "retrolit_models", "recomputing"),
    "retrolit GPT": ("torch", "retrolit_models", "gpt"),
    "retro-pytorch": ("retro-pytorch", "retro_pytorch", "retro"),
    "megatron-core": ("megatron-core", "megatron_core", "retro"),
    "GPT-2, generate": ("transformers", "gpt2", "with_generate"),
    "GPT-2, bare loop": ("transformers", "gpt2", "with_a_loop"),
}
"""Of every name: the package whose version matters, and where its candidate is built."""


def main() -> None:
    name, work = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    package, module, builder = BUILDERS[name]
    torch.set_num_threads(sizes.THREADS)
    torch.manual_seed(0)
    candidate: Candidate = getattr(importlib.import_module(f"benchmarks.peers.{module}"), builder)()
    facts: dict[str, object] = {
        "versions": sorted({f"{name} {version(name)}" for name in (package, "torch")}),
        "parameters": sum(parameter.numel() for parameter in candidate.model.parameters()),
    }
    if work == "train":
        a_round = training(candidate)
        facts["memory"], facts["losses"] = first_steps(a_round)
    else:
        a_round = generation(candidate)
        facts["tokens"] = a_round()
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        a_round()
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(spent), file=answers, flush=True)


def training(candidate: Candidate) -> Step:
    """A step of training: forward, backward and AdamW."""
    model, loss_of = candidate.model.train(), candidate.loss
    assert loss_of is not None
    batch = sizes.training_batch()
    return training_step(lambda: loss_of(*batch), torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))


def generation(candidate: Candidate) -> Callable[[], int]:
    """A function that continues the prompt and gives the number of new tokens."""
    candidate.model.eval()
    generate = candidate.generate
    assert generate is not None
    prompt, neighbors = sizes.generation_input()

    @torch.inference_mode()
    def continue_prompt() -> int:
        tokens = generate(prompt, neighbors)
        assert tokens.shape == (1, sizes.PROMPT + sizes.NEW)
        assert torch.equal(tokens[:, : sizes.PROMPT], prompt)
        return tokens.shape[1] - sizes.PROMPT

    return continue_prompt


if __name__ == "__main__":
    main()
