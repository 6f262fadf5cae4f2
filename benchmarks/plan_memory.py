"""Memory as `retrolit plan` has it against memory as it is: counted, resident, and of 512 GPUs that are not there.

    python -m benchmarks.plan_memory              # models of benchmarks.peers, float32 and bfloat16
    python -m benchmarks.plan_memory --fake 43b   # one of 512 GPUs under FSDP2, with fake tensors and processes

Counted: the bytes of all living tensors during the second of two micro-batches, beside weights, gradients and AdamW's
state (retrolit.planning.live_memory). Resident: the highest resident size of three steps less that of the built model,
in a process of its own; allocator and libraries are in it. Fake: torch's FakeTensorMode computes shapes and no numbers,
and its fake process group answers for the other GPUs, so that the collectives and shards of FSDP2 are the real ones.
Under fsdp+tp a model of one GPU's heads, MLP and vocabulary stands for its share; all-reduces among the eight, which
keep no memory, are left out.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
import yaml

from benchmarks.machine import describe
from benchmarks.peers.retrolit_models import DECODER, RETRO
from benchmarks.peers.sizes import TRAIN_BATCH as BATCH
from benchmarks.peers.sizes import TRAIN_LENGTH as LENGTH
from benchmarks.peers.sizes import VOCABULARY
from benchmarks.steps import memory_above_model, memory_in_own_process
from retrolit.checkpoint.model_types import empty_model
from retrolit.cli.recipes import recipe_folder
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.planning import MicroBatch
from retrolit.planning.activations import tensor_parallel_share
from retrolit.planning.live_memory import LiveMemory
from retrolit.planning.memory import Memory, memory
from retrolit.planning.size import size_of

MODELS: dict[str, GPTConfig | RetroConfig] = {"gpt": DECODER, "retro": RETRO}
CASES = [
    f"{model} {precision} {how}"
    for model, precision, how in itertools.product(MODELS, ("32-true", "bf16-mixed"), ("whole", "checkpointed"))
]
GPUS, TENSOR_PARALLEL = 512, 8


def case(name: str) -> tuple[GPTConfig | RetroConfig, MicroBatch]:
    """The model and the micro-batch of a case."""
    model, precision, how = name.split()
    return MODELS[model], MicroBatch(BATCH, LENGTH, precision, how == "checkpointed")


def prepare(name: str) -> tuple[torch.nn.Module, torch.optim.Optimizer, Callable[[], float]]:
    """Model, optimizer, and one micro-batch: forward and backward, gives the loss."""
    config, batch = case(name)
    torch.manual_seed(0)
    model = Retro(config) if isinstance(config, RetroConfig) else GPT(config)
    model.checkpoint_activations = batch.checkpointed
    tokens = torch.randint(0, VOCABULARY, (batch.samples, batch.length))
    inputs = [tokens, tokens]
    if isinstance(config, RetroConfig):
        shape = (batch.samples, batch.length // config.chunk_length, config.num_neighbors, config.retrieved_length)
        inputs += [None, torch.randint(0, VOCABULARY, shape), torch.ones(shape, dtype=torch.bool)]

    def micro_batch() -> float:
        mixed = batch.precision == "bf16-mixed"
        with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            loss = model.loss(*inputs).mean
        loss.backward()
        return loss.item()

    return model, torch.optim.AdamW(model.parameters(), fused=True), micro_batch


def counted(name: str) -> int:
    """Bytes of all living tensors at the most."""
    model, optimizer, micro_batch = prepare(name)
    micro_batch()
    optimizer.step()
    held = [*model.parameters(), *(weight.grad for weight in model.parameters())]
    held += [state for states in optimizer.state.values() for state in states.values() if state.ndim]
    with LiveMemory(held) as live:
        micro_batch()
    return sum(tensor.numel() * tensor.element_size() for tensor in held) + live.peak


def make_step(name: str) -> Callable[[], float]:
    """Two micro-batches and an optimizer step."""
    _, optimizer, micro_batch = prepare(name)

    def step() -> float:
        micro_batch()
        loss = micro_batch()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def fake(config: RetroConfig, batch: MicroBatch, gpus: int) -> int:
    """Bytes of all living tensors on one of `gpus` GPUs under FSDP2, at the most, with fake ones."""
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from retrolit.training.sharding import shard

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    mesh = init_device_mesh("cpu", (gpus,))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Retro(config).train()
        model.checkpoint_activations = batch.checkpointed
        shard(model, mesh, "bf16-mixed")
        tokens = torch.zeros(batch.samples, batch.length, dtype=torch.long)
        shape = (batch.samples, batch.length // config.chunk_length, config.num_neighbors, config.retrieved_length)
        neighbors, mask = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool)
        held: list[torch.Tensor] = []
        live = LiveMemory()
        for _ in range(2):
            shards = [t for weight in model.parameters() for t in (weight, weight.grad) if t is not None]
            held = [shard.to_local() for shard in shards]  # pyright: ignore[reportAttributeAccessIssue]
            with (live := LiveMemory(held)), torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(tokens, tokens, None, neighbors, mask).mean
                loss.backward()
        states = sum(tensor.numel() * tensor.element_size() for tensor in held)  # weights and gradients: half of all
    dist.destroy_process_group()
    return 2 * states + live.peak


def paper_config(model: str) -> RetroConfig:
    """Of the recipe, without the encoder's dropout: on a CPU it would leave the fused attention."""
    content = yaml.safe_load((recipe_folder() / "instructretro" / f"retro-{model}.yaml").read_text(encoding="utf-8"))
    config = RetroConfig.from_dict(content["model"]["init_args"]["config"])
    return replace(config, encoder_attention_dropout=0.0, encoder_hidden_dropout=0.0)


def tell(name: str, measured: int, planned: int) -> None:
    """One line."""
    print(
        f"{name:34} measured {measured / 2**20:9.1f} MiB   planned {planned / 2**20:9.1f}   {planned / measured:5.3f}",
        flush=True,
    )


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fake", metavar="MODEL", help="843m, 2b, 8b, 22b or 43b (48b as a Retro)")
    parser.add_argument("--memory-of", choices=CASES, help="resident memory of one case in this process, prints bytes")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_above_model(lambda: make_step(arguments.memory_of)))
        return
    print(describe())
    if arguments.fake:
        config = paper_config(arguments.fake)
        share = tensor_parallel_share(config, TENSOR_PARALLEL)
        assert isinstance(share, RetroConfig)
        for (name, part, gpus), checkpointed in itertools.product(
            (("fsdp", config, GPUS), ("fsdp+tp", share, GPUS // TENSOR_PARALLEL)), (True, False)
        ):
            batch = MicroBatch(1, config.decoder.max_position_embeddings, "bf16-mixed", checkpointed)
            plan = memory(part, size_of(empty_model(part)), batch, "fsdp", gpus=gpus)
            tell(f"{name} {'checkpointed' if checkpointed else 'whole'}", fake(part, batch, gpus), plan.total)
        return
    for name in CASES:
        config, batch = case(name)
        plan: Memory = memory(config, size_of(empty_model(config)), batch, "single")
        tell(f"{name}, counted", counted(name), plan.total)
        resident = memory_in_own_process("benchmarks.plan_memory", name)
        tell(f"{name}, resident", resident, plan.total - plan.weights)


if __name__ == "__main__":
    main()
