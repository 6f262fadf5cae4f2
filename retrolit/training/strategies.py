"""ShardedStrategy: a model that the devices hold together; FSDP1Strategy: the same with torch's first FSDP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.distributed.fsdp import MixedPrecision

from retrolit.models import GPT, Retro
from retrolit.models.layer import TransformerLayer
from retrolit.training.sharded_checkpoints import ShardedCheckpoints
from retrolit.training.sharding import shard
from retrolit.training.tensor_parallel import parallelize


class ShardedStrategy(ShardedCheckpoints):
    """Weights, gradients and optimizer state shared out among all devices (FSDP2), and if asked for, matrix products
    among some of them (tensor parallelism). Runs on CPUs too, for tests.

    Args:
        tensor_parallel: Devices that share each matrix product, of one machine; they read the same samples. A divisor
            of the model's heads, query groups, MLP width and vocabulary, and of the number of devices.
        cpu_offload: Keep the shares in CPU memory, where AdamW then runs: little GPU memory, slow steps.
    """

    def __init__(self, tensor_parallel: int = 1, cpu_offload: bool = False) -> None:
        super().__init__(tensor_parallel_size=tensor_parallel)
        self.tensor_parallel = tensor_parallel
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Start the processes' communication, and arrange them in a mesh."""
        devices = self.num_nodes * self.num_processes
        if self.tensor_parallel < 1 or devices % self.tensor_parallel:
            raise ValueError(
                f"trainer.strategy.tensor_parallel: expected a divisor of the {devices} devices, "
                f"got {self.tensor_parallel}"
            )
        self._data_parallel_size = devices // self.tensor_parallel
        super().setup_environment()

    def share_out(self, model: GPT | Retro) -> torch.device:
        """Give this process its part of a model on the meta device; the device where the part belongs comes back."""
        if self.tensor_parallel > 1:
            parallelize(model, self.device_mesh["tensor_parallel"])
        shard(model, self.device_mesh["data_parallel"], str(self.precision_plugin.precision), self.cpu_offload)
        return torch.device("cpu") if self.cpu_offload else self.root_device

    def model_to_device(self) -> None:
        """Nothing: the weights are where they belong from the beginning."""

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        """Over the processes that read different data, where no group is named."""
        return super().reduce(tensor, group or self.device_mesh["data_parallel"].get_group(), reduce_op)

    def _get_process_group_backend(self) -> str:
        """With one for CPU memory beside the GPUs' own, where the norm of offloaded gradients is added up."""
        backend = super()._get_process_group_backend()
        return f"cpu:gloo,cuda:{backend}" if self.cpu_offload and self.root_device.type == "cuda" else backend


class FSDP1Strategy(FSDPStrategy):
    """Torch's first FSDP with a unit for each layer, on GPUs alone; each process builds the whole model in CPU memory.

    Checkpoints are one file, as those of one device.
    """

    def __init__(self) -> None:
        super().__init__(auto_wrap_policy={TransformerLayer}, state_dict_type="full")

    @property
    def mixed_precision_config(self) -> MixedPrecision | None:
        """Lightning's, but for the inputs of layers: the cosines and sines of rotary positions stay float32."""
        config = super().mixed_precision_config
        return None if config is None else replace(config, cast_forward_inputs=False, cast_root_forward_inputs=False)
