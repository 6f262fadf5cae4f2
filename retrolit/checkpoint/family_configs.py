"""The config.json of each Hugging Face family, and our `GPTConfig`: a pair of functions a family.

A switch that changes what the model computes and that our GPT lacks raises ValueError by name; it is never passed over.
The other way a function writes what the family can say and no more: whoever calls compares what comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from retrolit.models import GPTConfig, RopeScaling

Json = Mapping[str, Any]

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "squared_relu",
}
_GATED_ACTIVATIONS = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu"}


def gpt2_config(hf: Json) -> GPTConfig:
    if not hf.get("scale_attn_weights", True):
        raise ValueError("scale_attn_weights: expected true, got false; our attention is always scaled")
    return GPTConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["n_embd"],
        num_layers=hf["n_layer"],
        num_attention_heads=hf["n_head"],
        max_position_embeddings=hf["n_positions"],
        ffn_hidden_size=hf.get("n_inner"),
        norm_epsilon=hf.get("layer_norm_epsilon", 1e-5),
        activation=_activation(hf.get("activation_function", "gelu_new"), _ACTIVATIONS),
        position_embedding="learned",
        tied_embeddings=hf.get("tie_word_embeddings", True),
        attention_dropout=hf.get("attn_pdrop", 0.1),
        hidden_dropout=hf.get("resid_pdrop", 0.1),
        init_std=hf.get("initializer_range", 0.02),
    )


def gpt2_json(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "n_inner": config.ffn_hidden_size,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": _activation_name(config, _ACTIVATIONS),
        "tie_word_embeddings": config.tied_embeddings,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.hidden_dropout,
        "embd_pdrop": config.hidden_dropout,
        "initializer_range": config.init_std,
    }


def neox_config(hf: Json) -> GPTConfig:
    if not hf.get("attention_bias", True):
        raise ValueError("attention_bias: expected true, got false; our biases are in attention and MLP, or in neither")
    return _rope_decoder(
        hf,
        rotary_percent=_rope_value(hf, "partial_rotary_factor", hf.get("rotary_pct", 0.25)),
        norm_epsilon=hf.get("layer_norm_eps", 1e-5),
        activation=_activation(hf.get("hidden_act", "gelu"), _ACTIVATIONS),
        parallel_residual=hf.get("use_parallel_residual", True),
        hidden_dropout=hf.get("hidden_dropout", 0.0),
    )


def neox_json(config: GPTConfig) -> dict[str, Any]:
    return _rope_decoder_json(config) | {
        "rotary_emb_base": config.rotary_base,
        "rotary_pct": config.rotary_percent,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": _activation_name(config, _ACTIVATIONS),
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": True,
        "hidden_dropout": config.hidden_dropout,
    }


def llama_config(hf: Json) -> GPTConfig:
    return _rope_decoder(
        hf,
        num_query_groups=hf.get("num_key_value_heads"),
        head_dim=hf.get("head_dim"),
        normalization="rmsnorm",
        norm_epsilon=hf.get("rms_norm_eps", 1e-6),
        activation=_activation(hf.get("hidden_act", "silu"), _GATED_ACTIVATIONS),
        bias=_same_biases(hf),
    )


def llama_json(config: GPTConfig) -> dict[str, Any]:
    return _rope_decoder_json(config) | {
        "num_key_value_heads": config.num_query_groups,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": _activation_name(config, _GATED_ACTIVATIONS),
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
    }


def mistral_config(hf: Json) -> GPTConfig:
    _refuse_short_window({"sliding_window": 4096} | dict(hf))
    return llama_config({"num_key_value_heads": 8} | dict(hf) | {"attention_bias": False, "mlp_bias": False})


def mistral_json(config: GPTConfig) -> dict[str, Any]:
    return llama_json(config) | {"sliding_window": None}


def qwen2_config(hf: Json) -> GPTConfig:
    if hf.get("use_sliding_window"):
        _refuse_short_window(hf)
    return _rope_decoder(
        hf,
        num_query_groups=hf["num_key_value_heads"],
        head_dim=hf.get("head_dim"),
        normalization="rmsnorm",
        norm_epsilon=hf.get("rms_norm_eps", 1e-6),
        activation=_activation(hf.get("hidden_act", "silu"), _GATED_ACTIVATIONS),
        bias=False,
        qkv_bias=True,
    )


def qwen2_json(config: GPTConfig) -> dict[str, Any]:
    taken = ("num_key_value_heads", "rms_norm_eps", "hidden_act")
    return _rope_decoder_json(config) | {name: llama_json(config)[name] for name in taken}


def qwen3_config(hf: Json) -> GPTConfig:
    if hf.get("use_sliding_window"):
        _refuse_short_window(hf)
    if hf.get("attention_bias"):
        raise ValueError("attention_bias: expected false, got true; our biases are in attention and MLP, or in neither")
    return _rope_decoder(
        hf,
        num_query_groups=hf["num_key_value_heads"],
        head_dim=hf.get("head_dim", 128),
        normalization="rmsnorm",
        norm_epsilon=hf.get("rms_norm_eps", 1e-6),
        activation=_activation(hf.get("hidden_act", "silu"), _GATED_ACTIVATIONS),
        bias=False,
        qk_norm=True,
    )


def qwen3_json(config: GPTConfig) -> dict[str, Any]:
    return qwen2_json(config) | {"head_dim": config.head_dim, "attention_bias": False}


def nemotron_config(hf: Json) -> GPTConfig:
    return _rope_decoder(
        hf,
        num_query_groups=hf.get("num_key_value_heads"),
        head_dim=hf.get("head_dim"),
        rotary_percent=_rope_value(hf, "partial_rotary_factor", 0.5),
        normalization="layernorm1p",
        norm_epsilon=hf.get("norm_eps", 1e-5),
        activation=_activation(hf.get("hidden_act", "relu2"), _ACTIVATIONS),
        bias=_same_biases(hf),
    )


def nemotron_json(config: GPTConfig) -> dict[str, Any]:
    return _rope_decoder_json(config) | {
        "num_key_value_heads": config.num_query_groups,
        "head_dim": config.head_dim,
        "partial_rotary_factor": config.rotary_percent,
        "norm_eps": config.norm_epsilon,
        "hidden_act": _activation_name(config, _ACTIVATIONS),
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
    }


def _rope_decoder(hf: Json, **fields: Any) -> GPTConfig:
    """What all families with rotary positions say alike."""
    return GPTConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        num_layers=hf["num_hidden_layers"],
        num_attention_heads=hf["num_attention_heads"],
        max_position_embeddings=hf["max_position_embeddings"],
        ffn_hidden_size=hf["intermediate_size"],
        position_embedding="rope",
        rotary_base=float(_rope_value(hf, "rope_theta", hf.get("rotary_emb_base", 10000.0))),
        rope_scaling=_rope_scaling(hf),
        tied_embeddings=hf.get("tie_word_embeddings", False),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("initializer_range", 0.02),
        **fields,
    )


def _rope_decoder_json(config: GPTConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    written = None
    if scaling is not None:
        values = asdict(scaling)
        kind = values.pop("type")
        written = {"rope_type": kind, "factor": scaling.factor} if kind == "linear" else {"rope_type": kind} | values
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "intermediate_size": config.ffn_hidden_size,
        "rope_theta": config.rotary_base,
        "rope_scaling": written,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.init_std,
    }


def _rope_value(hf: Json, name: str, default: Any) -> Any:
    """transformers 5 keeps what concerns rotation in `rope_parameters`, earlier versions beside everything else."""
    return (hf.get("rope_parameters") or {}).get(name, hf.get(name, default))


def _rope_scaling(hf: Json) -> RopeScaling | None:
    scaling = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(type="linear", factor=scaling["factor"])
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return RopeScaling(type="llama3", **{name: scaling[name] for name in names})
    raise ValueError(f"rope_scaling: expected default, linear or llama3, got {kind}")


def _activation(name: str, known: dict[str, str]) -> Any:
    if name not in known:
        raise ValueError(f"hidden_act: expected one of {', '.join(known)}, got {name}")
    return known[name]


def _activation_name(config: GPTConfig, known: dict[str, str]) -> str:
    """Their name of the config's activation, or any of theirs when they have none (the loss is noticed afterwards)."""
    return next((theirs for theirs, ours in known.items() if ours == config.activation), next(iter(known)))


def _same_biases(hf: Json) -> bool:
    attention, mlp = hf.get("attention_bias", False), hf.get("mlp_bias", False)
    if attention != mlp:
        raise ValueError(
            f"attention_bias: expected as mlp_bias ({mlp}), got {attention}; "
            "our biases are in attention and MLP, or in neither"
        )
    return attention


def _refuse_short_window(hf: Json) -> None:
    window = hf.get("sliding_window")
    if window is not None and window < hf["max_position_embeddings"]:
        raise ValueError(
            f"sliding_window: expected none, or at least max_position_embeddings ({hf['max_position_embeddings']}), "
            f"got {window}; our attention reaches back to the first token"
        )
