"""One training step of two processes on the CPU: weights shared out (FSDP2) against the whole model on each (DDP).

    python -m benchmarks.fsdp_step [--rounds 9] [--models gpt retro]

The models of benchmarks.peers.sizes, 4 x 512 tokens a process, float32, one thread a process, gloo, the same fused
AdamW; under FSDP2 with the units of `retrolit.training.sharding`, under DDP with torch's defaults. All kinds of step
take turns in the same two processes; wall seconds from a barrier to the end of the optimizer's step, medians.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.machine import describe
from benchmarks.peers.retrolit_models import DECODER, RETRO
from benchmarks.peers.sizes import TRAIN_BATCH as BATCH
from benchmarks.peers.sizes import TRAIN_LENGTH as LENGTH
from benchmarks.peers.sizes import VOCABULARY
from benchmarks.steps import Step, take_turns, training_step
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.training.sharding import shard

PROCESSES = 2
GOAL = 1.3
MODELS: dict[str, GPTConfig | RetroConfig] = {"gpt": DECODER, "retro": RETRO}


class LossOf(nn.Module):
    """The loss of a model as a forward pass, which is what DDP wraps."""

    def __init__(self, model: GPT | Retro) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """The mean loss of tokens, labels, loss mask, neighbors and their mask."""
        return self.model.loss(*inputs).mean  # pyright: ignore[reportArgumentType]


def make_step(config: GPTConfig | RetroConfig, sharded: bool) -> Step:
    """A step on random tokens, from a barrier on."""
    torch.manual_seed(0)
    model = Retro(config) if isinstance(config, RetroConfig) else GPT(config)
    loss: Callable[..., Tensor]
    if sharded:
        shard(model, init_device_mesh("cpu", (PROCESSES,)), "32-true")
        loss = LossOf(model)
    else:
        loss = DistributedDataParallel(LossOf(model))
    torch.manual_seed(dist.get_rank())
    tokens, labels = torch.randint(0, VOCABULARY, (2, BATCH, LENGTH))
    inputs: list[Any] = [tokens, labels, None]
    if isinstance(config, RetroConfig):
        shape = (BATCH, LENGTH // config.chunk_length, config.num_neighbors, config.retrieved_length)
        inputs += [torch.randint(0, VOCABULARY, shape), torch.ones(shape, dtype=torch.bool)]
    step = training_step(lambda: loss(*inputs), torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))

    def together() -> float:
        dist.barrier()
        return step()

    return together


def measure(rank: int, port: int, rounds: int, models: list[str]) -> None:
    """What each process does; the first one prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    steps = {f"{name} {how}": make_step(MODELS[name], how == "fsdp2") for name in models for how in ("ddp", "fsdp2")}
    spent = {name: figures["wall"] for name, figures in take_turns(steps, rounds).items()}
    if rank == 0:
        for name, seconds in spent.items():
            print(f"{name:<12} {seconds * 1000:6.0f} ms")
        for name in models:
            print(f"{name}: fsdp2 / ddp {spent[f'{name} fsdp2'] / spent[f'{name} ddp']:.2f} (goal {GOAL})")
    dist.destroy_process_group()


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each kind")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which ones")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    spawn(measure, (find_free_network_port(), arguments.rounds, arguments.models), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
