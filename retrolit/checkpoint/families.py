"""Hugging Face's model families: what their tensors are called, beside our names.

Every family is one `Family`: a table of names, and two functions between its config.json and `GPTConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrolit.checkpoint import family_configs as configs
from retrolit.checkpoint.family_configs import Json
from retrolit.checkpoint.tables import SEPARATE_QKV, TRANSPOSED, TRANSPOSED_QKV, Rule
from retrolit.models import GPTConfig

# Switches of any family that our GPT has no counterpart for; any value but off is refused.
_MUST_BE_OFF = (
    "add_cross_attention",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "num_experts",
    "num_local_experts",
    "quantization_config",
    "scale_attn_by_inverse_layer_idx",
)


@dataclass(frozen=True)
class Family:
    """One kind of model in transformers, and how it is said with our GPT."""

    model_type: str
    architecture: str
    prefix: str
    """What all names but the output layer's begin with; a folder saved from the bare model lacks it."""
    rules: list[Rule]
    read: Callable[[Json], GPTConfig]
    write: Callable[[GPTConfig], dict[str, Any]]


_LLAMA_COMMON = [
    Rule("embedding.weight", "model.embed_tokens.weight"),
    Rule("layers.{n}.attention_norm.{p}", "model.layers.{n}.input_layernorm.{p}"),
    Rule(
        "layers.{n}.attention.qkv.{p}",
        tuple(f"model.layers.{{n}}.self_attn.{which}_proj.{{p}}" for which in "qkv"),
        SEPARATE_QKV,
    ),
    Rule("layers.{n}.attention.output.{p}", "model.layers.{n}.self_attn.o_proj.{p}"),
    Rule("layers.{n}.mlp_norm.{p}", "model.layers.{n}.post_attention_layernorm.{p}"),
    Rule("layers.{n}.mlp.up.{p}", "model.layers.{n}.mlp.up_proj.{p}"),
    Rule("layers.{n}.mlp.down.{p}", "model.layers.{n}.mlp.down_proj.{p}"),
    Rule("final_norm.{p}", "model.norm.{p}"),
    Rule("output.weight", "lm_head.weight"),
]
_LLAMA_RULES = [*_LLAMA_COMMON, Rule("layers.{n}.mlp.gate.{p}", "model.layers.{n}.mlp.gate_proj.{p}")]
_QWEN3_RULES = [
    *_LLAMA_RULES,
    Rule("layers.{n}.attention.query_norm.{p}", "model.layers.{n}.self_attn.q_norm.{p}"),
    Rule("layers.{n}.attention.key_norm.{p}", "model.layers.{n}.self_attn.k_norm.{p}"),
]
_GPT2_RULES = [
    Rule("embedding.weight", "transformer.wte.weight"),
    Rule("position_embedding.weight", "transformer.wpe.weight"),
    Rule("layers.{n}.attention_norm.{p}", "transformer.h.{n}.ln_1.{p}"),
    Rule("layers.{n}.attention.qkv.{p}", "transformer.h.{n}.attn.c_attn.{p}", TRANSPOSED_QKV),
    Rule("layers.{n}.attention.output.{p}", "transformer.h.{n}.attn.c_proj.{p}", TRANSPOSED),
    Rule("layers.{n}.mlp_norm.{p}", "transformer.h.{n}.ln_2.{p}"),
    Rule("layers.{n}.mlp.up.{p}", "transformer.h.{n}.mlp.c_fc.{p}", TRANSPOSED),
    Rule("layers.{n}.mlp.down.{p}", "transformer.h.{n}.mlp.c_proj.{p}", TRANSPOSED),
    Rule("final_norm.{p}", "transformer.ln_f.{p}"),
    Rule("output.weight", "lm_head.weight"),
]
_NEOX_RULES = [
    Rule("embedding.weight", "gpt_neox.embed_in.weight"),
    Rule("layers.{n}.attention_norm.{p}", "gpt_neox.layers.{n}.input_layernorm.{p}"),
    Rule("layers.{n}.attention.qkv.{p}", "gpt_neox.layers.{n}.attention.query_key_value.{p}"),
    Rule("layers.{n}.attention.output.{p}", "gpt_neox.layers.{n}.attention.dense.{p}"),
    Rule("layers.{n}.mlp_norm.{p}", "gpt_neox.layers.{n}.post_attention_layernorm.{p}"),
    Rule("layers.{n}.mlp.up.{p}", "gpt_neox.layers.{n}.mlp.dense_h_to_4h.{p}"),
    Rule("layers.{n}.mlp.down.{p}", "gpt_neox.layers.{n}.mlp.dense_4h_to_h.{p}"),
    Rule("final_norm.{p}", "gpt_neox.final_layer_norm.{p}"),
    Rule("output.weight", "embed_out.weight"),
]

# to-hf takes the first that can say everything about a model.
FAMILIES = [
    Family("llama", "LlamaForCausalLM", "model.", _LLAMA_RULES, configs.llama_config, configs.llama_json),
    Family("qwen2", "Qwen2ForCausalLM", "model.", _LLAMA_RULES, configs.qwen2_config, configs.qwen2_json),
    Family("qwen3", "Qwen3ForCausalLM", "model.", _QWEN3_RULES, configs.qwen3_config, configs.qwen3_json),
    Family("mistral", "MistralForCausalLM", "model.", _LLAMA_RULES, configs.mistral_config, configs.mistral_json),
    Family("nemotron", "NemotronForCausalLM", "model.", _LLAMA_COMMON, configs.nemotron_config, configs.nemotron_json),
    Family("gpt2", "GPT2LMHeadModel", "transformer.", _GPT2_RULES, configs.gpt2_config, configs.gpt2_json),
    Family("gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.", _NEOX_RULES, configs.neox_config, configs.neox_json),
]


def family_of(hf: Json) -> Family:
    """The family a config.json belongs to; ValueError lists the known ones."""
    for family in FAMILIES:
        if family.model_type == hf.get("model_type"):
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ValueError(f"model_type: expected one of {known}; got {hf.get('model_type')}")


def read_config(family: Family, hf: Json) -> GPTConfig:
    """Our config for a config.json; ValueError names what our GPT cannot follow or what is missing."""
    for name in _MUST_BE_OFF:
        if hf.get(name):
            raise ValueError(f"{name}: expected it off, got {hf[name]!r}; a retrolit GPT cannot compute that")
    try:
        return family.read(hf)
    except KeyError as error:
        raise ValueError(f"config.json of a {family.model_type}: {error.args[0]} is missing") from error
