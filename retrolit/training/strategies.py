"""ShardedStrategy: a model that the devices hold together."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.utilities.types import ReduceOp
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from retrolit.models import GPT, Retro
from retrolit.training.sharding import shard


class ShardedStrategy(ModelParallelStrategy):
    """Weights, gradients and optimizer state shared out among all devices (FSDP2); runs on CPUs too, for tests.

    Args:
        cpu_offload: Keep the shares in CPU memory, where AdamW then runs: little GPU memory, slow steps.
        save_distributed_checkpoint: Each process writes its share, a checkpoint is a folder. When false the first one
            gathers everything and writes one file.
    """

    def __init__(self, cpu_offload: bool = False, save_distributed_checkpoint: bool = True) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint)
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Start the processes' communication, and arrange them in a mesh."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def share_out(self, model: GPT | Retro) -> torch.device:
        """Give this process its part of a model on the meta device; the device where the part belongs comes back."""
        shard(model, self.device_mesh["data_parallel"], str(self.precision_plugin.precision), self.cpu_offload)
        return torch.device("cpu") if self.cpu_offload else self.root_device

    def model_to_device(self) -> None:
        """Nothing: the weights are where they belong from the beginning."""

    def reduce(
        self, tensor: Tensor | Any, group: Any | None = None, reduce_op: ReduceOp | str | None = "mean"
    ) -> Tensor:
        """Over the processes that read different data, where no group is named."""
        return super().reduce(tensor, group or self.device_mesh["data_parallel"].get_group(), reduce_op)

    def _get_process_group_backend(self) -> str:
        """With one for CPU memory beside the GPUs' own, where the norm of offloaded gradients is added up."""
        backend = super()._get_process_group_backend()
        return f"cpu:gloo,cuda:{backend}" if self.cpu_offload and self.root_device.type == "cuda" else backend
