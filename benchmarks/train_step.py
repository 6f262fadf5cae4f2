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
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.machine import describe
from benchmarks.steps import memory_above_model, memory_in_own_process, take_turns, training_step
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

    return training_step(lambda: loss_of(tokens, labels), optimizer)


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each model")
    parser.add_argument("--memory-of", choices=MODELS, help="measure one model's memory in this process, print bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.memory_of:
        print(memory_above_model(partial(make_step, arguments.memory_of)))
        return
    print(describe("transformers"), flush=True)
    figures = take_turns({name: make_step(name) for name in MODELS}, arguments.rounds)
    for name, figure in figures.items():
        figure["memory"] = memory_in_own_process("benchmarks.train_step", name)
    for name, figure in figures.items():
        cpu, wall, memory = figure["CPU time"], figure["wall"], figure["memory"] / 2**20
        print(f"{name:<26} CPU {cpu * 1000:6.0f} ms   wall {wall * 1000:6.0f} ms   memory {memory:5.0f} MiB")
    for peer in [name for name in MODELS if name != "retrolit"]:
        ratios = {what: figures["retrolit"][what] / figures[peer][what] for what in GOALS}
        print(f"retrolit / {peer}: " + ", ".join(f"{what} {r:.2f} (goal {GOALS[what]})" for what, r in ratios.items()))


if __name__ == "__main__":
    main()
