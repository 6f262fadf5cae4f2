"""AdamW, and which weights it decays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class OptimizerConfig:
    """AdamW's settings."""

    lr: float = 3e-4
    """The peak learning rate; the schedule rises to it and falls from it."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running means of gradients and of their squares."""

    eps: float = 1e-8
    """Added to the denominator."""

    weight_decay: float = 0.1
    """Decoupled decay of all matrices, embeddings among them; vectors (norms, biases) never decay, as in Megatron."""

    def __post_init__(self) -> None:
        self.betas = (self.betas[0], self.betas[1])  # a list, where it was read from YAML
        if not self.lr > 0:
            raise ValueError(f"optimizer.lr: expected more than 0, got {self.lr}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas: expected two numbers from 0 to below 1, got {list(self.betas)}")
        if self.weight_decay < 0 or self.eps <= 0:
            raise ValueError(
                "optimizer: expected weight_decay of at least 0 and eps above 0, "
                f"got {self.weight_decay} and {self.eps}"
            )


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over the model's trainable weights in two groups: decayed matrices, vectors without decay."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
