"""Megatron-LM's names and options for a GPT, and ours: tables and switches, no files.

Three spellings are read: the layers of Megatron Core ("local"), the same with the norms fused into the linear layer
after them as TransformerEngine names them ("te"), and the model before Megatron Core ("legacy").

Two things surprise. A gated MLP's `linear_fc1` holds the gate's rows, then the up rows, and with tensor parallelism
every rank holds its own share of each: it is taken apart before ranks are joined. And Megatron's `gelu` is the exact
one, but its fused bias-and-gelu kernel (`bias_gelu_fusion`, on by default with biases) computes the tanh approximation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from retrolit.checkpoint.tables import GATE_THEN_UP, Rule, lost_switches
from retrolit.models import GPTConfig, RopeScaling

Spelling = Literal["local", "te", "legacy"]

CORE = [
    Rule("embedding.weight", "embedding.word_embeddings.weight"),
    Rule("position_embedding.weight", "embedding.position_embeddings.weight"),
    Rule("layers.{n}.attention.qkv.{p}", "decoder.layers.{n}.self_attention.linear_qkv.{p}"),
    Rule("layers.{n}.attention.query_norm.{p}", "decoder.layers.{n}.self_attention.q_layernorm.{p}"),
    Rule("layers.{n}.attention.key_norm.{p}", "decoder.layers.{n}.self_attention.k_layernorm.{p}"),
    Rule("layers.{n}.attention.output.{p}", "decoder.layers.{n}.self_attention.linear_proj.{p}"),
    Rule("layers.{n}.mlp.down.{p}", "decoder.layers.{n}.mlp.linear_fc2.{p}"),
    Rule("final_norm.{p}", "decoder.final_layernorm.{p}"),
    Rule("output.weight", "output_layer.weight"),
]
LOCAL_NORMS = [
    Rule("layers.{n}.attention_norm.{p}", "decoder.layers.{n}.input_layernorm.{p}"),
    Rule("layers.{n}.mlp_norm.{p}", "decoder.layers.{n}.pre_mlp_layernorm.{p}"),
]
TE_NORMS = [
    Rule("layers.{n}.attention_norm.{p}", "decoder.layers.{n}.self_attention.linear_qkv.layer_norm_{p}"),
    Rule("layers.{n}.mlp_norm.{p}", "decoder.layers.{n}.mlp.linear_fc1.layer_norm_{p}"),
]
LEGACY = [
    Rule("embedding.weight", "language_model.embedding.word_embeddings.weight"),
    Rule("position_embedding.weight", "language_model.embedding.position_embeddings.weight"),
    Rule("layers.{n}.attention_norm.{p}", "language_model.encoder.layers.{n}.input_norm.{p}"),
    Rule("layers.{n}.attention.qkv.{p}", "language_model.encoder.layers.{n}.self_attention.query_key_value.{p}"),
    Rule("layers.{n}.attention.output.{p}", "language_model.encoder.layers.{n}.self_attention.dense.{p}"),
    Rule("layers.{n}.mlp_norm.{p}", "language_model.encoder.layers.{n}.post_attention_norm.{p}"),
    Rule("layers.{n}.mlp.down.{p}", "language_model.encoder.layers.{n}.mlp.dense_4h_to_h.{p}"),
    Rule("final_norm.{p}", "language_model.encoder.final_norm.{p}"),
    Rule("output.weight", "language_model.output_layer.weight"),
]
FIRST_LINEAR = {
    "local": "decoder.layers.{n}.mlp.linear_fc1.{p}",
    "te": "decoder.layers.{n}.mlp.linear_fc1.{p}",
    "legacy": "language_model.encoder.layers.{n}.mlp.dense_h_to_4h.{p}",
}

# Tensor parallelism by our names: what is cut by rows, what by columns (its bias is not); the rest is whole.
CUT_BY_ROWS = (
    "embedding", "output", "attention.qkv", "mlp.gate", "mlp.up", "cross_attention.query", "cross_attention.key_value",
)  # fmt: skip
CUT_BY_COLUMNS = ("attention.output", "mlp.down", "cross_attention.output")

# Options that change what the model computes and that our GPT has no switch for; any value but off is refused.
MUST_BE_OFF = (
    "activation_func_clamp_value",
    "apply_residual_connection_post_layernorm",
    "attention_output_gate",
    "glu_linear_offset",
    "heterogeneous_layers_config_path",
    "hybrid_override_pattern",
    "mtp_num_layers",
    "multi_latent_attention",
    "no_rope_freq",
    "num_experts",
    "quick_geglu",
    "rotary_interleaved",
    "window_size",
)


def rules(spelling: Spelling, gated: bool) -> list[Rule]:
    """The table between our GPT and a Megatron checkpoint of this spelling."""
    table = {"local": CORE + LOCAL_NORMS, "te": CORE + TE_NORMS, "legacy": LEGACY}[spelling]
    up = "layers.{n}.mlp.up.{p}"
    if gated:
        return [*table, Rule(("layers.{n}.mlp.gate.{p}", up), FIRST_LINEAR[spelling], GATE_THEN_UP)]
    return [*table, Rule(up, FIRST_LINEAR[spelling])]


def spelling_of(names: Collection[str]) -> Spelling:
    """Which of the three spellings these tensor names are."""
    if any(name.startswith("language_model.") for name in names):
        return "legacy"
    if not any(name.startswith("decoder.layers.") for name in names):
        raise ValueError(
            f"expected the tensor names of a Megatron GPT (decoder.layers... or language_model...), got "
            f"{', '.join(sorted(names)[:3]) or 'none'}"
        )
    return "te" if any(name.endswith("linear_qkv.layer_norm_weight") for name in names) else "local"


def has_final_norm(names: Collection[str]) -> bool:
    """Whether there is a norm behind the last layer, of any spelling; Megatron Core 0.8 to 0.15 built Retro without."""
    return any("final_norm." in name or "final_layernorm." in name for name in names)


def modern_name(name: str) -> str:
    """A legacy name as Megatron-LM wrote it from September 2023 on; other names as they are."""
    if not name.startswith("language_model."):
        return name
    name = name.replace("language_model.transformer.", "language_model.encoder.")
    return name.replace(".attention.", ".self_attention.").replace("layernorm", "norm")


def cut_axis(name: str) -> int | None:
    """The axis along which tensor parallelism cuts our tensor `name`; None where every rank holds the whole."""
    module, _, parameter = re.sub(r"^((de|en)coder\.)?(layers\.\d+\.)?", "", name).rpartition(".")
    if module in CUT_BY_ROWS:
        return 0
    return 1 if module in CUT_BY_COLUMNS and parameter == "weight" else None


def config_from_options(options: Mapping[str, Any], final_norm: bool = True) -> GPTConfig:
    """The GPT that Megatron builds from these command-line options (a checkpoint's `args`), padded vocabulary and all.

    Raises ValueError naming an option that our GPT cannot follow. Options that a checkpoint lacks have Megatron's
    defaults, except that gelu without a `bias_gelu_fusion` is taken as the exact one.
    """
    if options.get("retro_add_retriever"):
        raise ValueError("retro_add_retriever: expected the tensors of a Retro, got those of a GPT")
    for name in MUST_BE_OFF:
        if options.get(name):
            raise ValueError(f"{name}: expected it off, got {options[name]!r}; a retrolit GPT cannot compute that")
    if options.get("softmax_type", "vanilla") != "vanilla":
        raise ValueError(f"softmax_type: expected vanilla, got {options['softmax_type']}")
    bias = options.get("add_bias_linear", True)
    query_groups = options.get("num_query_groups") if options.get("group_query_attention") else None
    try:
        return GPTConfig(
            vocab_size=options["padded_vocab_size"],
            hidden_size=options["hidden_size"],
            num_layers=options["num_layers"],
            num_attention_heads=options["num_attention_heads"],
            max_position_embeddings=options["max_position_embeddings"],
            num_query_groups=query_groups,
            head_dim=options.get("kv_channels"),
            ffn_hidden_size=options.get("ffn_hidden_size"),
            normalization=_normalization(options),
            norm_epsilon=options.get("norm_epsilon", options.get("layernorm_epsilon", 1e-5)),
            activation=_activation(options, bias),
            position_embedding=_positions(options),
            rotary_percent=options.get("rotary_percent", 1.0),
            rotary_base=float(options.get("rotary_base", 10000)),
            rope_scaling=_rope_scaling(options),
            bias=bias,
            qkv_bias=bias or options.get("add_qkv_bias", False),
            tied_embeddings=not options.get("untie_embeddings_and_output_weights", False),
            qk_norm=_query_key_norm(options),
            final_norm=final_norm,
            attention_dropout=options.get("attention_dropout", 0.1),
            hidden_dropout=options.get("hidden_dropout", 0.1),
            init_std=options.get("init_method_std", 0.02),
        )
    except KeyError as error:
        raise ValueError(f"args: has no {error.args[0]}; are these the args of a Megatron GPT?") from error


def options_from_config(config: GPTConfig, padded_vocab_size: int, tensor_parallel: int) -> dict[str, Any]:
    """Megatron's command-line options that build this GPT; ValueError names the fields for which it has none."""
    scaling = config.rope_scaling
    gelu_tanh = config.activation == "gelu_tanh"
    options = {
        "num_layers": config.num_layers,
        "encoder_num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.ffn_hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.head_dim,
        "group_query_attention": config.num_query_groups != config.num_attention_heads,
        "num_query_groups": config.num_query_groups,
        "seq_length": config.max_position_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "position_embedding_type": "learned_absolute"
        if config.position_embedding == "learned"
        else config.position_embedding,
        "add_position_embedding": config.position_embedding == "learned",
        "use_rotary_position_embeddings": config.position_embedding == "rope",
        "rotary_percent": config.rotary_percent,
        "rotary_base": int(config.rotary_base),
        "rotary_interleaved": False,
        "rotary_seq_len_interpolation_factor": scaling.factor if scaling and scaling.type == "linear" else None,
        "use_rope_scaling": scaling is not None and scaling.type == "llama3",
        "rope_scaling_factor": scaling.factor if scaling and scaling.type == "llama3" else 8.0,
        "normalization": "RMSNorm" if config.normalization == "rmsnorm" else "LayerNorm",
        "norm_epsilon": config.norm_epsilon,
        "apply_layernorm_1p": config.normalization == "layernorm1p",
        "swiglu": config.activation == "swiglu",
        "squared_relu": config.activation == "squared_relu",
        "openai_gelu": False,
        "bias_gelu_fusion": gelu_tanh and config.bias,
        "add_bias_linear": config.bias,
        "add_qkv_bias": bool(config.qkv_bias),
        "qk_layernorm": config.qk_norm,
        "untie_embeddings_and_output_weights": not config.tied_embeddings,
        "attention_dropout": config.attention_dropout,
        "hidden_dropout": config.hidden_dropout,
        "init_method_std": config.init_std,
        "vocab_size": config.vocab_size,
        "padded_vocab_size": padded_vocab_size,
        "tensor_model_parallel_size": tensor_parallel,
        "pipeline_model_parallel_size": 1,
        "transformer_impl": "transformer_engine",
        "use_mcore_models": True,
        "use_legacy_models": False,
        "retro_add_retriever": False,
    }
    lost = lost_switches(config, config_from_options(options | {"padded_vocab_size": config.vocab_size}))
    if lost:
        raise ValueError(f"Megatron has no option for {', '.join(lost)}; this model cannot be written for it")
    return options


def true_vocab_size(options: Mapping[str, Any]) -> int | None:
    """The number of real token ids where the options tell it; None where they only know the padded number."""
    size = options.get("vocab_size")
    if size is None:
        return None
    return size + 1 if options.get("tokenizer_type") == "NullTokenizer" else size  # it adds its end-of-document id


def _normalization(options: Mapping[str, Any]) -> Literal["layernorm", "layernorm1p", "rmsnorm"]:
    name, one_plus = options.get("normalization", "LayerNorm"), options.get("apply_layernorm_1p", False)
    if name == "LayerNorm":
        return "layernorm1p" if one_plus else "layernorm"
    if name == "RMSNorm" and not one_plus:
        return "rmsnorm"
    raise ValueError(f"normalization: expected LayerNorm or RMSNorm, the latter without 1p; got {name}")


def _activation(options: Mapping[str, Any], bias: bool) -> Literal["gelu", "gelu_tanh", "squared_relu", "swiglu"]:
    if options.get("swiglu"):
        return "swiglu"
    if options.get("squared_relu"):
        return "squared_relu"
    fused = options.get("bias_gelu_fusion", False) and bias
    return "gelu_tanh" if fused or options.get("openai_gelu") else "gelu"


def _positions(options: Mapping[str, Any]) -> Literal["rope", "learned", "none"]:
    name = options.get("position_embedding_type")
    if options.get("use_rotary_position_embeddings") or name == "rope":
        return "rope"
    if name == "none" or options.get("add_position_embedding") is False:
        return "none"
    if name in (None, "learned_absolute"):
        return "learned"
    raise ValueError(f"position_embedding_type: expected rope, learned_absolute or none, got {name}")


def _rope_scaling(options: Mapping[str, Any]) -> RopeScaling | None:
    linear, llama3 = options.get("rotary_seq_len_interpolation_factor"), options.get("use_rope_scaling", False)
    if linear and llama3:
        raise ValueError("use_rope_scaling: expected it off beside rotary_seq_len_interpolation_factor, got both")
    if llama3:
        return RopeScaling(type="llama3", factor=options.get("rope_scaling_factor", 8.0))
    return RopeScaling(type="linear", factor=linear) if linear else None


def _query_key_norm(options: Mapping[str, Any]) -> bool:
    wanted = options.get("qk_layernorm", False)
    if wanted and options.get("normalization") != "RMSNorm":
        raise ValueError("qk_layernorm: expected normalization RMSNorm with it, got LayerNorm")
    return wanted
