"""config.json and ours: what each switch sets, both ways, and what is refused by name."""

from __future__ import annotations

import pytest

from retrolit.checkpoint.families import FAMILIES, family_of, read_config
from retrolit.models import RopeScaling

ROPE_MODEL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 64}


def _read(model_type, **switches):
    hf = (GPT2 if model_type == "gpt2" else ROPE_MODEL | {"model_type": model_type}) | switches
    return read_config(family_of(hf), hf)


@pytest.mark.parametrize(
    ("model_type", "switches", "field", "value"),
    [
        ("gpt2", {}, "activation", "gelu_tanh"),
        ("gpt2", {"activation_function": "gelu"}, "activation", "gelu"),
        ("gpt2", {}, "ffn_hidden_size", 128),
        ("gpt2", {"n_inner": 96}, "ffn_hidden_size", 96),
        ("gpt2", {}, "tied_embeddings", True),
        ("gpt2", {"resid_pdrop": 0.3}, "hidden_dropout", 0.3),
        ("gpt_neox", {}, "parallel_residual", True),
        ("gpt_neox", {"use_parallel_residual": False}, "parallel_residual", False),
        ("gpt_neox", {}, "rotary_percent", 0.25),
        ("gpt_neox", {"rotary_pct": 0.5}, "rotary_percent", 0.5),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 1.0}}, "rotary_percent", 1.0),
        ("gpt_neox", {"rotary_emb_base": 5000}, "rotary_base", 5000.0),
        ("gpt_neox", {}, "num_query_groups", 4),
        ("llama", {}, "num_query_groups", 2),
        ("llama", {"num_key_value_heads": None}, "num_query_groups", 4),
        ("llama", {"head_dim": 16}, "head_dim", 16),
        ("llama", {"rope_theta": 5e5}, "rotary_base", 5e5),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rotary_base", 5e5),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling", RopeScaling("linear", 2.0)),
        ("llama", {"rope_scaling": {"rope_type": "llama3"} | LLAMA3}, "rope_scaling", RopeScaling("llama3", **LLAMA3)),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4} | LLAMA3}, "rope_scaling",
         RopeScaling("llama3", **LLAMA3)),
        ("llama", {}, "bias", False),
        ("llama", {"attention_bias": True, "mlp_bias": True}, "bias", True),
        ("llama", {"tie_word_embeddings": True}, "tied_embeddings", True),
        ("llama", {"hidden_act": "gelu"}, "activation", "geglu"),
        ("mistral", {"sliding_window": None}, "normalization", "rmsnorm"),
        ("mistral", {"sliding_window": 128}, "max_position_embeddings", 128),
        ("qwen2", {}, "qkv_bias", True),
        ("qwen2", {}, "bias", False),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 16}, "num_layers", 2),
        ("qwen3", {}, "qk_norm", True),
        ("qwen3", {}, "head_dim", 128),
        ("nemotron", {}, "activation", "squared_relu"),
        ("nemotron", {}, "normalization", "layernorm1p"),
        ("nemotron", {}, "rotary_percent", 0.5),
        ("nemotron", {"partial_rotary_factor": 1.0}, "rotary_percent", 1.0),
    ],
)  # fmt: skip
def test_every_switch_sets_its_field(model_type, switches, field, value):
    assert getattr(_read(model_type, **switches), field) == value


@pytest.mark.parametrize(
    ("model_type", "switches", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: expected it off"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights: expected true, got false"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention: expected it off"),
        ("gpt2", {"activation_function": "silu"}, "hidden_act: expected one of gelu, gelu_new, .*, got silu"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias: expected true, got false"),
        ("llama", {"attention_bias": True}, r"attention_bias: expected as mlp_bias \(False\), got True"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling: .* got yarn"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling: .* got dynamic"),
        ("llama", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping: expected it off, got 50\.0"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config: expected it off"),
        ("llama", {"num_local_experts": 8}, "num_local_experts: expected it off"),
        ("mistral", {"sliding_window": 64}, "sliding_window: expected none, or at least .*128.*, got 64"),
        ("mistral", {"max_position_embeddings": 8192}, "sliding_window: .* got 4096"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64}, "sliding_window: .* got 64"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 64}, "sliding_window: .* got 64"),
        ("qwen3", {"attention_bias": True}, "attention_bias: expected false, got true"),
        ("mixtral", {}, "model_type: expected one of llama, qwen2, .*; got mixtral"),
    ],
)
def test_what_our_gpt_cannot_compute_is_refused_by_name(model_type, switches, message):
    with pytest.raises(ValueError, match=message):
        _read(model_type, **switches)


def test_a_missing_field_is_named():
    hf = {"model_type": "llama", "vocab_size": 64}
    with pytest.raises(ValueError, match=r"config\.json of a llama: hidden_size is missing"):
        read_config(family_of(hf), hf)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
@pytest.mark.parametrize(
    "rope_scaling", [None, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "llama3"} | LLAMA3]
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_familys_own_models_are_written_without_loss(family, rope_scaling, tied):
    switches = {"tie_word_embeddings": tied}
    if family.model_type != "gpt2":
        switches |= {"rope_scaling": rope_scaling, "rope_theta": 2e4, "sliding_window": None}
    config = _read(family.model_type, **switches)
    assert read_config(family, family.write(config)) == config
