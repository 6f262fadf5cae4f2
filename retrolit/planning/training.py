"""A training run before it is started: size, FLOPs, time, and memory by strategy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from retrolit.checkpoint.model_types import empty_model
from retrolit.models import GPTConfig, RetroConfig
from retrolit.planning.activations import MicroBatch, tensor_parallel_share
from retrolit.planning.gpus import Cluster
from retrolit.planning.memory import Memory, Strategy, memory
from retrolit.planning.size import Size, Trained, flops_by_part, size_of


@dataclass(frozen=True)
class Run:
    """What a training recipe says about its run."""

    config: GPTConfig | RetroConfig
    """The model."""

    batch: MicroBatch
    """What a device works on at a time."""

    global_batch_size: int
    """Samples of an optimizer step."""

    steps: int
    """Optimizer steps."""

    trained: Trained = "all"
    """Which weights are trained; with "decoder" neighbors are not read."""

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.global_batch_size * self.batch.length


@dataclass(frozen=True)
class TrainingPlan:
    """What a run is going to need."""

    size: Size
    flops: dict[str, int]
    """Of one token, forward and backward, by part."""
    tokens: int
    seconds: float
    gpu_hours: float
    memory: dict[Strategy, tuple[Memory, Memory]]
    """By strategy, of one GPU: without and with activation checkpointing."""

    @property
    def flops_per_token(self) -> int:
        """All parts."""
        return sum(self.flops.values())


def plan_training(run: Run, cluster: Cluster) -> TrainingPlan:
    """The plan of this run on this cluster.

    fsdp+tp is left out where one GPU is alone, or where the model does not divide and nobody asked for a number.
    Raises ValueError where the model does not divide by the tensor parallelism asked for.
    """
    model = empty_model(run.config)
    flops, size = flops_by_part(model, run.batch.length), size_of(model, run.trained)
    if run.trained == "decoder":
        flops = {part: count for part, count in flops.items() if part not in ("encoder", "cross-attention")}
    seconds = cluster.seconds(sum(flops.values()) * run.tokens)
    memories: dict[Strategy, tuple[Memory, Memory]] = {}
    for strategy, ways, config in _strategies(run.config, cluster):
        share = size if config is run.config else size_of(empty_model(config), run.trained)
        own = replace(run.batch, compiled=run.batch.compiled and strategy != "fsdp+tp")  # where it is refused
        without, with_ = (
            memory(config, share, batch, strategy, gpus=cluster.gpus, tensor_parallel=ways, trained=run.trained)
            for batch in (replace(own, checkpointed=False), replace(own, checkpointed=True))
        )
        memories[strategy] = (without, with_)
    return TrainingPlan(size, flops, run.tokens, seconds, seconds * cluster.gpus / 3600, memories)


def _strategies(
    config: GPTConfig | RetroConfig, cluster: Cluster
) -> Iterator[tuple[Strategy, int, GPTConfig | RetroConfig]]:
    """Those that make sense, with the tensor parallelism and the model of one GPU."""
    yield "single", 1, config
    if cluster.gpus == 1:
        return
    yield "ddp", 1, config
    yield "fsdp", 1, config
    ways = cluster.tensor_parallel_size
    if ways > 1:
        try:
            share = tensor_parallel_share(config, ways)
        except ValueError:
            if cluster.tensor_parallel is not None:
                raise
            return
        yield "fsdp+tp", ways, share
