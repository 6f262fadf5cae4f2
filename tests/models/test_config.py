"""What a config works out by itself, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from retrolit.models import GPTConfig, RopeScaling

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("given", "worked_out"),
    [
        ({}, {"num_query_groups": 4, "head_dim": 12, "ffn_hidden_size": 192, "qkv_bias": True}),
        ({"activation": "swiglu", "bias": False}, {"ffn_hidden_size": 128, "qkv_bias": False}),
        ({"activation": "swiglu", "hidden_size": 16}, {"ffn_hidden_size": 64}),
        ({"activation": "geglu", "hidden_size": 2048}, {"ffn_hidden_size": 5440}),
        ({"head_dim": 10, "num_attention_heads": 5}, {"head_dim": 10, "num_query_groups": 5}),
        ({"rotary_percent": 0.5}, {"rotary_dim": 6}),
        ({"hidden_size": 40}, {"init_std": 0.1}),
        ({"hidden_size": 40, "init_std": 0.02}, {"init_std": 0.02}),
    ],
)  # fmt: skip
def test_sizes_not_given_are_worked_out(given: dict, worked_out: dict) -> None:
    config = GPTConfig(**SIZES | given)
    assert {name: getattr(config, name) for name in worked_out} == worked_out


@pytest.mark.parametrize(
    ("hidden_size", "published"), [(2048, 0.014), (4096, 0.010), (6144, 0.008), (8192, 0.007)]
)  # fmt: skip
def test_first_weights_are_as_large_as_nvidias(hidden_size: int, published: float) -> None:
    config = GPTConfig(**SIZES | {"hidden_size": hidden_size})
    assert config.init_std == pytest.approx(published, abs=0.0005)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocab_size": 0}, "GPTConfig.vocab_size: expected more than 0, got 0"),
        ({"num_query_groups": 0}, "GPTConfig.num_query_groups: expected more than 0, got 0"),
        ({"init_std": 0.0}, "GPTConfig.init_std: expected more than 0, got 0.0"),
        ({"ffn_hidden_size": -1}, "GPTConfig.ffn_hidden_size: expected more than 0, got -1"),
        ({"normalization": "batchnorm"}, "expected one of layernorm, layernorm1p, rmsnorm; got 'batchnorm'"),
        ({"activation": "tanh"}, "GPTConfig.activation: expected one of gelu, "),
        ({"position_embedding": "alibi"}, "expected one of rope, learned, none; got 'alibi'"),
        ({"num_query_groups": 3}, r"expected a divisor of num_attention_heads \(4\), got 3"),
        ({"num_attention_heads": 5}, r"expected a divisor of hidden_size \(48\), got 5; or name head_dim"),
        ({"rotary_percent": 0.0}, "expected a share above 0 and up to 1, got 0.0"),
        ({"rotary_percent": 0.25}, "expected an even number of rotating channels, got 3 of head_dim 12"),
        ({"position_embedding": "none", "rope_scaling": RopeScaling("linear", 2.0)}, "rope, got none"),
        ({"hidden_dropout": 1.0}, "GPTConfig.hidden_dropout: expected at least 0 and below 1, got 1.0"),
        ({"attention_dropout": -0.1}, "GPTConfig.attention_dropout: expected at least 0 and below 1, got -0.1"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPTConfig(**SIZES | given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "yarn", "factor": 2.0}, "RopeScaling.type: expected one of linear, llama3; got 'yarn'"),
        ({"type": "linear", "factor": 0.0}, "RopeScaling.factor: expected more than 0, got 0.0"),
        (
            {"type": "llama3", "factor": 2.0, "high_freq_factor": 1.0},
            r"high_freq_factor: expected more than low_freq_factor \(1.0\), got 1.0",
        ),
    ],
)
def test_impossible_scaling_is_refused_by_name(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RopeScaling(**given)


def test_a_config_comes_back_from_plain_values() -> None:
    config = GPTConfig(**SIZES, rope_scaling=RopeScaling("llama3", factor=4.0), num_query_groups=2)
    assert GPTConfig.from_dict(asdict(config)) == config


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="GPTConfig: unknown hidden; the fields are vocab_size, hidden_size"):
        GPTConfig.from_dict(SIZES | {"hidden": 3})
