"""One training step (forward, backward, AdamW) against Hugging Face GPT-2 of the same size: CPU time and memory.

    python -m benchmarks.train_step

Both models have the same architecture, to the parameter: 12 layers, width 256, 4 heads, vocabulary 8192, learned
positions, tied output, no dropout; 4 x 512 tokens a step, float32, 2 threads, the same fused AdamW. Hugging Face runs
its fastest forms: SDPA attention, and both its own activation (gelu_new, written out in torch operations) and the fused
one of the same values (gelu_pytorch_tanh).

Time: CPU seconds of the process (all threads) a step, the models taking turns in one process; medians. Memory: the
highest resident size during three steps less the size before the first, each model in a process of its own.
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
from torch import Tensor, nn

from benchmarks.machine import describe
from retrolit.models import GPT, GPTConfig

LossOf = Callable[[Tensor, Tensor], Tensor]

BATCH, LENGTH, VOCABULARY, WIDTH, LAYERS, HEADS = 4, 512, 8192, 256, 12, 4
THREADS = 2
GOALS = {"CPU time": 0.85, "memory": 0.7}


def retrolit_loss() -> tuple[nn.Module, LossOf]:
    """Our model and its loss of tokens and labels (B, T)."""
    model = GPT(
        GPTConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, num_layers=LAYERS, num_attention_heads=HEADS,
            max_position_embeddings=LENGTH, position_embedding="learned", activation="gelu_tanh", tied_embeddings=True,
        )
    )  # fmt: skip
    return model, lambda tokens, labels: model.loss(tokens, labels).mean


def huggingface_loss(activation: str) -> tuple[nn.Module, LossOf]:
    """GPT2LMHeadModel and its loss of tokens and labels (B, T)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=LENGTH, use_cache=False,
        activation_function=activation, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    return model, lambda tokens, labels: model(tokens, labels=labels, shift_labels=labels).loss


MODELS = {
    "retrolit": retrolit_loss,
    "gpt2 (gelu_new)": lambda: huggingface_loss("gelu_new"),
    "gpt2 (gelu_pytorch_tanh)": lambda: huggingface_loss("gelu_pytorch_tanh"),
}


def make_step(name: str) -> Callable[[], float]:
    """A function that trains one step on random tokens and gives the loss."""
    torch.manual_seed(0)
    model, loss_of = MODELS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens, labels = torch.randint(0, VOCABULARY, (2, BATCH, LENGTH))

    def step() -> float:
        loss = loss_of(tokens, labels)
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
        name: {
            "CPU time": statistics.median(cpu for cpu, _ in all_),
            "wall": statistics.median(wall for _, wall in all_),
        }
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
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each model")
    parser.add_argument("--memory-of", choices=MODELS, help="measure one model's memory in this process, print bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of)))
        return
    print(describe("transformers"), flush=True)
    figures = measure_times(arguments.rounds)
    for name, figure in figures.items():
        command = [sys.executable, "-m", "benchmarks.train_step", "--memory-of", name]
        figure["memory"] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, figure in figures.items():
        cpu, wall, memory = figure["CPU time"], figure["wall"], figure["memory"] / 2**20
        print(f"{name:<26} CPU {cpu * 1000:6.0f} ms   wall {wall * 1000:6.0f} ms   memory {memory:5.0f} MiB")
    for peer in [name for name in MODELS if name != "retrolit"]:
        ratios = {what: figures["retrolit"][what] / figures[peer][what] for what in GOALS}
        print(f"retrolit / {peer}: " + ", ".join(f"{what} {r:.2f} (goal {GOALS[what]})" for what, r in ratios.items()))


if __name__ == "__main__":
    main()
