"""The MLP of a transformer layer: up, a nonlinearity, down; gated where the activation has a gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from retrolit.models.config import GATED_ACTIVATIONS, Activation, GPTConfig


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared (Nemotron)."""
    return F.relu(x).square()


# What is applied to the up projection, or to the gate where there is one.
_NONLINEARITY: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "squared_relu": squared_relu,
    "swiglu": F.silu,
    "geglu": F.gelu,
}


class MLP(nn.Module):
    """down(f(up(x))), or down(f(gate(x)) * up(x)) for swiglu and geglu."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        assert config.ffn_hidden_size is not None
        width, inner = config.hidden_size, config.ffn_hidden_size
        gated = config.activation in GATED_ACTIVATIONS
        self.gate = nn.Linear(width, inner, bias=config.bias) if gated else None
        self.up = nn.Linear(width, inner, bias=config.bias)
        self.down = nn.Linear(inner, width, bias=config.bias)
        self.nonlinearity = _NONLINEARITY[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.gate is None:
            return self.down(self.nonlinearity(self.up(x)))
        return self.down(self.nonlinearity(self.gate(x)) * self.up(x))
