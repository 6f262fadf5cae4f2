"""What GPUs can do and hold, and a cluster of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class GPU(NamedTuple):
    """One type of GPU, by NVIDIA's data sheets."""

    flops: float
    """Dense bfloat16 matmuls, FLOP/s."""

    memory_gib: float
    """Its memory; what is sold as 80 GB has nearly 80 GiB. Of an A100 the larger one."""


# The first name that the device's name contains counts.
GPUS = {
    "B200": GPU(2250e12, 180),
    "GH200": GPU(989e12, 96),
    "H200": GPU(989e12, 141),
    "H100 PCIe": GPU(756e12, 80),
    "H100 NVL": GPU(835e12, 94),
    "H100": GPU(989e12, 80),
    "A100": GPU(312e12, 80),
    "A40": GPU(150e12, 48),
    "A10G": GPU(70e12, 24),
    "A10": GPU(125e12, 24),
    "L40S": GPU(362e12, 48),
    "L4": GPU(121e12, 24),
    "RTX 4090": GPU(165e12, 24),
    "RTX 3090": GPU(71e12, 24),
}


@dataclass
class Cluster:
    """The GPUs that a plan is for."""

    gpus: int = 8
    """How many."""

    gpu: str = "H100"
    """Their type, a name of the table in planning/gpus.py: B200, H200, H100, A100 ...; anything with both numbers
    below."""

    peak_flops: float | None = None
    """FLOP/s of one in bfloat16; the type's if not given."""

    memory_gib: float | None = None
    """Memory of one in GiB; the type's if not given."""

    mfu: float = 0.4
    """Share of the peak that the model's FLOPs reach; recomputed activations do not count as FLOPs."""

    tensor_parallel: int | None = None
    """GPUs that share each matrix product; the most up to 8 that divide `gpus` if not given."""

    def __post_init__(self) -> None:
        known = GPUS.get(self.gpu)
        if known is None and (self.peak_flops is None or self.memory_gib is None):
            raise ValueError(
                f"cluster.gpu: expected one of {', '.join(GPUS)}, or peak_flops and memory_gib beside it, "
                f"got {self.gpu!r}"
            )
        if known is not None:
            self.peak_flops = known.flops if self.peak_flops is None else self.peak_flops
            self.memory_gib = known.memory_gib if self.memory_gib is None else self.memory_gib
        for name in ("gpus", "peak_flops", "memory_gib"):
            if not getattr(self, name) > 0:
                raise ValueError(f"cluster.{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"cluster.mfu: expected a share above 0 and up to 1, got {self.mfu}")
        if self.tensor_parallel is not None and (self.tensor_parallel < 1 or self.gpus % self.tensor_parallel):
            raise ValueError(
                f"cluster.tensor_parallel: expected a divisor of gpus ({self.gpus}), got {self.tensor_parallel}"
            )

    @property
    def memory_bytes(self) -> int:
        """Of one GPU."""
        assert self.memory_gib is not None
        return int(self.memory_gib * 2**30)

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs that share each matrix product."""
        return self.tensor_parallel or math.gcd(self.gpus, 8)

    def seconds(self, flops: float) -> float:
        """For so many FLOPs of a model."""
        assert self.peak_flops is not None
        return flops / (self.gpus * self.peak_flops * self.mfu)
