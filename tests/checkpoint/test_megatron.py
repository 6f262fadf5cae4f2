"""Megatron's options and ours: what each switch sets, and what is refused."""

from __future__ import annotations

import pytest

from retrolit.checkpoint.megatron import (
    config_from_options,
    cut_axis,
    modern_name,
    options_from_config,
    spelling_of,
    true_vocab_size,
)
from retrolit.models import GPTConfig, RopeScaling

OPTIONS = {
    "padded_vocab_size": 128,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({}, "activation", "gelu"),
        ({"bias_gelu_fusion": True}, "activation", "gelu_tanh"),
        ({"bias_gelu_fusion": True, "add_bias_linear": False}, "activation", "gelu"),
        ({"openai_gelu": True}, "activation", "gelu_tanh"),
        ({"squared_relu": True}, "activation", "squared_relu"),
        ({"swiglu": True, "bias_gelu_fusion": True}, "activation", "swiglu"),
        ({}, "normalization", "layernorm"),
        ({"apply_layernorm_1p": True}, "normalization", "layernorm1p"),
        ({"normalization": "RMSNorm"}, "normalization", "rmsnorm"),
        ({"layernorm_epsilon": 1e-6}, "norm_epsilon", 1e-6),
        ({"norm_epsilon": 1e-6}, "norm_epsilon", 1e-6),
        ({}, "position_embedding", "learned"),
        ({"position_embedding_type": "rope"}, "position_embedding", "rope"),
        ({"use_rotary_position_embeddings": True}, "position_embedding", "rope"),
        ({"position_embedding_type": "none"}, "position_embedding", "none"),
        ({"add_position_embedding": False}, "position_embedding", "none"),
        ({"position_embedding_type": "rope", "rotary_percent": 0.5}, "rotary_percent", 0.5),
        ({"num_query_groups": 1}, "num_query_groups", 4),
        ({"num_query_groups": 1, "group_query_attention": True}, "num_query_groups", 1),
        ({"kv_channels": 16}, "head_dim", 16),
        ({"add_bias_linear": False}, "qkv_bias", False),
        ({"add_bias_linear": False, "add_qkv_bias": True}, "qkv_bias", True),
        ({}, "tied_embeddings", True),
        ({"untie_embeddings_and_output_weights": True}, "tied_embeddings", False),
        ({"normalization": "RMSNorm", "qk_layernorm": True}, "qk_norm", True),
        ({"hidden_dropout": 0.25}, "hidden_dropout", 0.25),
        (
            {"position_embedding_type": "rope", "rotary_seq_len_interpolation_factor": 4},
            "rope_scaling",
            RopeScaling(type="linear", factor=4),
        ),
        (
            {"position_embedding_type": "rope", "use_rope_scaling": True},
            "rope_scaling",
            RopeScaling(type="llama3", factor=8.0),
        ),
    ],
)
def test_every_option_sets_its_switch(options, field, value):
    assert getattr(config_from_options(OPTIONS | options), field) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retro_add_retriever": True}, "retro_add_retriever: expected the tensors of a Retro"),
        ({"num_experts": 8}, "num_experts: expected it off, got 8"),
        ({"rotary_interleaved": True}, "rotary_interleaved: expected it off"),
        ({"multi_latent_attention": True}, "multi_latent_attention: expected it off"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ({"window_size": (128, 0)}, "window_size: expected it off"),
        ({"softmax_type": "off-by-one"}, "softmax_type: expected vanilla, got off-by-one"),
        ({"normalization": "RMSNorm", "apply_layernorm_1p": True}, "normalization: expected LayerNorm or RMSNorm"),
        ({"qk_layernorm": True}, "qk_layernorm: expected normalization RMSNorm"),
        ({"position_embedding_type": "yarn"}, "position_embedding_type: expected rope, learned_absolute or none"),
        ({"use_rope_scaling": True, "rotary_seq_len_interpolation_factor": 2}, "use_rope_scaling: expected it off"),
    ],
)
def test_what_our_gpt_cannot_compute_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        config_from_options(OPTIONS | options)


def test_args_of_something_else_are_refused():
    with pytest.raises(ValueError, match="args: has no padded_vocab_size"):
        config_from_options({"num_layers": 2})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"position_embedding": "learned", "tied_embeddings": True, "activation": "gelu_tanh"},
        {"normalization": "layernorm1p", "activation": "swiglu", "bias": False, "rotary_percent": 0.5},
        {"normalization": "rmsnorm", "activation": "swiglu", "bias": False, "qkv_bias": True, "num_query_groups": 2},
        {"normalization": "rmsnorm", "activation": "squared_relu", "bias": False, "qk_norm": True, "head_dim": 16},
        {"rope_scaling": RopeScaling(type="linear", factor=2.0)},
        {"rope_scaling": RopeScaling(type="llama3", factor=32.0)},
        {"position_embedding": "none", "attention_dropout": 0.1, "hidden_dropout": 0.2, "init_std": 0.01},
    ],
)
def test_options_there_and_back_are_the_same_config(fields):
    config = _config(**fields)
    options = options_from_config(config, padded_vocab_size=config.vocab_size, tensor_parallel=1)
    assert config_from_options(options) == config


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"activation": "geglu"}, "activation='geglu'"),
        ({"activation": "gelu_tanh", "bias": False}, "activation='gelu_tanh'"),
        ({"parallel_residual": True}, "parallel_residual=True"),
        ({"qkv_bias": False}, "qkv_bias=False"),
        ({"final_norm": False}, "final_norm=False"),
        ({"rope_scaling": RopeScaling(type="llama3", factor=8.0, high_freq_factor=2.0)}, "rope_scaling="),
        ({"rotary_base": 10000.5}, r"rotary_base=10000\.5"),
    ],
)
def test_what_megatron_has_no_option_for_is_refused_by_name(fields, named):
    config = _config(**fields)
    with pytest.raises(ValueError, match=f"Megatron has no option for .*{named}"):
        options_from_config(config, padded_vocab_size=config.vocab_size, tensor_parallel=1)


def test_the_true_vocabulary_is_known_only_where_the_options_tell_it():
    assert true_vocab_size({"vocab_size": 90}) == 90
    assert true_vocab_size({"vocab_size": 90, "tokenizer_type": "NullTokenizer"}) == 91
    assert true_vocab_size({"vocab_size": None}) is None


def test_spellings_are_told_apart():
    assert spelling_of(["language_model.encoder.layers.0.input_norm.weight"]) == "legacy"
    assert spelling_of(["decoder.layers.0.self_attention.linear_qkv.layer_norm_weight"]) == "te"
    assert spelling_of(["decoder.layers.0.input_layernorm.weight"]) == "local"
    with pytest.raises(ValueError, match=r"expected the tensor names of a Megatron GPT .* got bert\.pooler"):
        spelling_of(["bert.pooler"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("language_model.transformer.layers.0.attention.dense.weight", "encoder.layers.0.self_attention.dense.weight"),
        ("language_model.encoder.layers.3.post_attention_layernorm.bias", "encoder.layers.3.post_attention_norm.bias"),
        ("language_model.encoder.final_layernorm.weight", "encoder.final_norm.weight"),
        ("language_model.encoder.layers.0.self_attention.dense.bias", "encoder.layers.0.self_attention.dense.bias"),
    ],
)
def test_older_legacy_names_become_the_later_ones(old, new):
    assert modern_name(old) == f"language_model.{new}"
    assert modern_name("decoder.final_layernorm.weight") == "decoder.final_layernorm.weight"


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("embedding.weight", 0),
        ("position_embedding.weight", None),
        ("layers.3.attention.qkv.bias", 0),
        ("layers.3.attention.query_norm.weight", None),
        ("layers.3.attention.output.weight", 1),
        ("layers.3.attention.output.bias", None),
        ("layers.11.mlp.gate.weight", 0),
        ("layers.11.mlp.down.weight", 1),
        ("layers.11.mlp.down.bias", None),
        ("layers.11.mlp_norm.weight", None),
        ("output.weight", 0),
        ("decoder.embedding.weight", 0),
        ("decoder.final_norm.weight", None),
        ("decoder.layers.5.cross_attention.query.weight", 0),
        ("decoder.layers.5.cross_attention.key_value.bias", 0),
        ("encoder.layers.0.cross_attention.output.weight", 1),
        ("encoder.layers.0.cross_attention.output.bias", None),
        ("encoder.layers.0.cross_attention_norm.weight", None),
        ("encoder.layers.1.mlp.up.weight", 0),
    ],
)
def test_tensor_parallelism_cuts_rows_columns_or_nothing(name, axis):
    assert cut_axis(name) == axis


def _config(**fields) -> GPTConfig:
    sizes = {"vocab_size": 128, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 4}
    return GPTConfig(**({**sizes, "max_position_embeddings": 64} | fields))
