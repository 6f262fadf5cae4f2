"""Norms against their formulas."""

from __future__ import annotations

from dataclasses import replace

import torch

from retrolit.models import GPTConfig
from retrolit.models.norms import make_norm

CONFIG = GPTConfig(
    vocab_size=8, hidden_size=12, num_layers=1, num_attention_heads=2, max_position_embeddings=8, norm_epsilon=1e-3
)


def standardized(x: torch.Tensor) -> torch.Tensor:
    variance = x.var(-1, unbiased=False, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-3)


def test_layernorm_multiplies_by_weight_and_layernorm1p_by_one_more() -> None:
    x = torch.randn(5, 12) * 3 + 1
    for normalization, offset in (("layernorm", 0), ("layernorm1p", 1)):
        norm = make_norm(replace(CONFIG, normalization=normalization))
        torch.testing.assert_close(norm(x), standardized(x))  # fresh: the identity
        assert norm.bias is not None
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        torch.testing.assert_close(norm(x), standardized(x) * (norm.weight + offset) + norm.bias)


def test_rmsnorm_divides_by_the_root_mean_square_and_follows_its_inputs_dtype() -> None:
    norm, x = make_norm(replace(CONFIG, normalization="rmsnorm")), torch.randn(5, 12) * 3 + 1
    torch.nn.init.normal_(norm.weight)
    expected = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-3) * norm.weight
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
