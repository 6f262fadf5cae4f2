"""Low-rank adapters (LoRA, arXiv 2106.09685): a frozen matrix W, and beside it a small product that is trained.

    y = W x + b + scale U D x      D (rank, in) random, U (out, rank) zero at first: an adapted model begins as it was

The adapters are tensors beside the weight they belong to, `x.lora_down`, `x.lora_up` and `x.lora_scale` beside
`x.weight`, so a state dict with adapters says by itself what it becomes when they are merged: W + scale U D, under the
name W always had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrolit.models.config import check_positive
from retrolit.models.layer import TransformerLayer
from retrolit.models.lazy_tensors import LazyTensors

TARGETS = ("qkv", "query", "key_value", "output", "up", "gate", "down")
"""What the linear layers of attention, cross-attention and MLP are called."""


@dataclass
class LoRAConfig:
    """Which matrices get adapters, and how large these are."""

    rank: int = 16
    """Rows of the smaller matrix; 2 x rank x width numbers are trained for a square matrix."""

    alpha: float = 32.0
    """What the adapters say is scaled by alpha / rank."""

    dropout: float = 0.0
    """Dropout on what the adapters read."""

    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    """Names of the linear layers: qkv and output of self-attention, query, key_value and output of cross-attention, up,
    gate and down of the MLP; all of them when not given."""

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRAConfig.dropout: expected at least 0 and below 1, got {self.dropout}")
        if not self.targets or not set(self.targets) <= set(TARGETS):
            raise ValueError(f"LoRAConfig.targets: expected some of {', '.join(TARGETS)}; got {self.targets}")


class LoRALinear(nn.Linear):
    """A frozen linear layer with its adapter."""

    lora_scale: Tensor

    def __init__(self, linear: nn.Linear, config: LoRAConfig) -> None:
        weight = linear.weight
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        for frozen in self.parameters():
            frozen.requires_grad = False
        like = {"device": weight.device, "dtype": weight.dtype}
        self.lora_down = nn.Parameter(torch.empty(config.rank, linear.in_features, **like))
        self.lora_up = nn.Parameter(torch.empty(linear.out_features, config.rank, **like))
        self.register_buffer("lora_scale", torch.empty((), **like))
        self.config = config
        self.lora_dropout = nn.Dropout(config.dropout)
        self.reset_adapter()

    @torch.no_grad()
    def reset_adapter(self, generator: torch.Generator | None = None) -> None:
        """A fresh adapter, that adds nothing yet."""
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5), generator=generator)
        self.lora_up.zero_()
        self.lora_scale.fill_(self.config.alpha / self.config.rank)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        adapted = F.linear(F.linear(self.lora_dropout(input), self.lora_down), self.lora_up)
        return super().forward(input) + self.lora_scale.to(adapted.dtype) * adapted


def add_lora(model: nn.Module, config: LoRAConfig) -> None:
    """Give the model's trainable matrices of these names an adapter, and freeze everything else.

    Raises ValueError where the model has none of them.
    """
    chosen = [
        (parent, name, part)
        for layer in list(model.modules())
        if isinstance(layer, TransformerLayer)  # so not a GPT's output layer, which has an attention's name
        for parent in layer.modules()
        for name, part in parent.named_children()
        if isinstance(part, nn.Linear) and name in config.targets and part.weight.requires_grad
    ]
    if not chosen:
        raise ValueError(f"LoRAConfig.targets: expected layers that the model has, got {', '.join(config.targets)}")
    model.requires_grad_(False)
    for parent, name, part in chosen:
        setattr(parent, name, LoRALinear(part, config))


def merge_lora(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict without adapters: each weight with its own added, in the weight's dtype; others as they are.

    A tensor is read, and added to, when it is asked for.
    """

    def merged(name: str) -> Tensor:
        weight = tensors[name]
        layer, dot, kind = name.rpartition(".")
        if kind != "weight" or f"{layer}{dot}lora_up" not in tensors:
            return weight
        up, down, scale = (tensors[f"{layer}{dot}lora_{part}"].float() for part in ("up", "down", "scale"))
        return (weight.float() + scale * (up @ down)).to(weight.dtype)

    return LazyTensors((name for name in tensors if ".lora_" not in name), merged)
