"""Each activation against its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from retrolit.models import GPTConfig
from retrolit.models.config import Activation
from retrolit.models.mlp import MLP


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda up, gate: gelu(up),
    "gelu_tanh": lambda up, gate: gelu_tanh(up),
    "relu": lambda up, gate: up.clamp(min=0),
    "squared_relu": lambda up, gate: up.clamp(min=0) ** 2,
    "swiglu": lambda up, gate: gate / (1 + torch.exp(-gate)) * up,
    "geglu": lambda up, gate: gelu(gate) * up,
}


def test_every_activation_has_its_formula_here() -> None:
    assert sorted(FORMULAS) == sorted(get_args(Activation))


@pytest.mark.parametrize("activation", FORMULAS)
def test_the_mlp_is_down_of_the_activated_up(activation: Activation) -> None:
    config = GPTConfig(
        vocab_size=8, hidden_size=12, num_layers=1, num_attention_heads=2, max_position_embeddings=8,
        activation=activation,
    )  # fmt: skip
    mlp, x = MLP(config).double(), torch.randn(5, 12, dtype=torch.float64) * 3
    up = mlp.up(x)
    gate = up if mlp.gate is None else mlp.gate(x)
    torch.testing.assert_close(mlp(x), mlp.down(FORMULAS[activation](up, gate)))
