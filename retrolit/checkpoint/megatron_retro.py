"""Megatron-LM's names and options for a Retro, and ours: the tables of `megatron`, and what Retro adds to them.

In Megatron the neighbor encoder lives inside the first Retro layer. Two traps lie in the names. Before Megatron Core,
`post_attention_norm` is the norm before the MLP in an ordinary layer but the one before the cross-attention in a Retro
layer, where the MLP's is `post_inter_attention_norm`. And nothing in the weights tells that the two compute different
things: the older adds the encoder's cross-attention to the residual stream, Megatron Core to its norm, and Megatron
Core 0.8 to 0.15 leaves out the norm behind the last layer. The spelling and the names that are there decide.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from retrolit.checkpoint.megatron import (
    Spelling,
    config_from_options,
    has_final_norm,
    options_from_config,
    rules,
)
from retrolit.checkpoint.tables import Rule
from retrolit.models import RetroConfig
from retrolit.models.config import GATED_ACTIVATIONS
from retrolit.models.retro_config import default_retro_layers

CORE_CROSS = [
    ("cross_attention_norm", "pre_cross_attn_layernorm"),
    ("cross_attention.query", "cross_attention.attn.linear_q"),
    ("cross_attention.key_value", "cross_attention.attn.linear_kv"),
    ("cross_attention.output", "cross_attention.attn.linear_proj"),
]
CROSS = {
    "local": CORE_CROSS,
    "te": CORE_CROSS,
    "legacy": [
        ("cross_attention_norm", "post_attention_norm"),
        ("cross_attention.query", "inter_attention.query"),
        ("cross_attention.key_value", "inter_attention.key_value"),
        ("cross_attention.output", "inter_attention.dense"),
    ],
}
STACK = {"local": "decoder.layers", "te": "decoder.layers", "legacy": "language_model.encoder.layers"}
ENCODER = {"local": "cross_attention.encoder", "te": "cross_attention.encoder", "legacy": "retriever"}
# The MLP's norm in the layers with cross-attention, where it has a name of its own there.
DECODER_MLP_NORM = {"local": None, "te": None, "legacy": "post_inter_attention_norm"}
ENCODER_MLP_NORM = DECODER_MLP_NORM | {"local": "pre_mlp_layernorm.norm", "te": "pre_mlp_layernorm.norm"}
CROSS_NORM = re.compile(
    r"(?:decoder|language_model\.encoder)\.layers\.(\d+)\.(?:pre_cross_attn_layernorm|post_inter_attention_norm)\."
)


def retro_rules(config: RetroConfig, spelling: Spelling) -> list[Rule]:
    """The table between our Retro and a Megatron checkpoint of this spelling, every layer by its number."""
    table = rules(spelling, config.decoder.activation in GATED_ACTIVATIONS)
    stack = STACK[spelling]
    made = [Rule(f"decoder.{rule.ours}", rule.theirs) for rule in table if "{n}" not in _first(rule.ours)]
    for number in range(config.decoder.num_layers):
        names = f"decoder.layers.{number}", f"{stack}.{number}"
        made += _layer_rules(table, spelling, *names)
        if number + 1 in config.retro_layers:
            made += _cross_rules(spelling, *names, DECODER_MLP_NORM[spelling])
    encoder = f"{stack}.{config.retro_layers[0] - 1}.{ENCODER[spelling]}.layers"
    for number in range(config.encoder_layers):
        made += _layer_rules(table, spelling, f"encoder.layers.{number}", f"{encoder}.{number}")
    made += _cross_rules(spelling, "encoder.layers.0", f"{encoder}.0", ENCODER_MLP_NORM[spelling])
    return list({rule.ours: rule for rule in made}.values())  # a layer's later rule takes the place of the earlier one


def retro_layers_of(names: Collection[str]) -> list[int]:
    """The decoder's layers with cross-attention, counted from 1, by the names of their norms; none in a GPT."""
    return sorted({int(match[1]) + 1 for name in names if (match := CROSS_NORM.match(name))})


def retro_config_from_options(
    options: Mapping[str, Any], names: Collection[str], spelling: Spelling, chunk_length: int | None = None
) -> RetroConfig:
    """The Retro of these command-line options (a checkpoint's `args`) and tensor names.

    The chunk length is the one given, else the options', else 64: before Megatron Core it is in no checkpoint.
    """
    return RetroConfig(
        decoder=config_from_options({**options, "retro_add_retriever": False}, has_final_norm(names)),
        retro_layers=retro_layers_of(names),
        chunk_length=chunk_length or options.get("retro_chunk_length") or 64,
        num_neighbors=options.get("retro_num_neighbors", 2),
        num_retrieved_chunks=options.get("retro_num_retrieved_chunks", 2),
        encoder_layers=options.get("retro_encoder_layers", 2),
        encoder_attention_dropout=options.get("retro_encoder_attention_dropout", 0.1),
        encoder_hidden_dropout=options.get("retro_encoder_hidden_dropout", 0.1),
        encoder_residual="unnormed" if spelling == "legacy" else "normed",
        encoder_rotary=False,
        cross_rotary=False,
        mask_padding=False,
    )


def options_from_retro_config(config: RetroConfig, padded_vocab_size: int, tensor_parallel: int) -> dict[str, Any]:
    """Megatron Core's command-line options that build this Retro; ValueError names what it has no option for."""
    decoder = replace(config.decoder, final_norm=True)  # no option of Megatron's: see `core_computes_otherwise`
    plain = RetroConfig(
        config.decoder, default_retro_layers(config.decoder.num_layers), encoder_rotary=False, cross_rotary=False
    )
    lost = [
        f"{name}={getattr(config, name)!r}"
        for name in (
            "retro_layers", "encoder_hidden_size", "encoder_num_attention_heads", "encoder_ffn_hidden_size",
            "encoder_rotary", "cross_rotary", "shifted_keys",
        )
        if getattr(config, name) != getattr(plain, name)
    ]  # fmt: skip
    if lost:
        raise ValueError(f"Megatron has no option for {', '.join(lost)}; this model cannot be written for it")
    return options_from_config(decoder, padded_vocab_size, tensor_parallel) | {
        "retro_add_retriever": True,
        "retro_chunk_length": config.chunk_length,
        "retro_num_neighbors": config.num_neighbors,
        "retro_num_retrieved_chunks": config.num_retrieved_chunks,
        "retro_encoder_layers": config.encoder_layers,
        "retro_encoder_attention_dropout": config.encoder_attention_dropout,
        "retro_encoder_hidden_dropout": config.encoder_hidden_dropout,
        "retro_attention_gate": 1,
    }


def core_computes_otherwise(config: RetroConfig) -> list[str]:
    """What Megatron Core makes of this model's weights that our Retro does not, one sentence each."""
    notes = []
    if config.encoder_residual == "unnormed":
        notes.append("Megatron Core adds the encoder's cross-attention to its norm: its logits will differ from ours")
    if config.mask_padding:
        notes.append("Megatron Core attends to the padding of neighbors, which this model has not learned to expect")
    if config.decoder.final_norm:
        notes.append("Megatron Core 0.8 to 0.15 builds Retro without a final norm; 0.4 to 0.7 have the one written")
    return notes


def _layer_rules(table: list[Rule], spelling: Spelling, ours: str, theirs: str) -> list[Rule]:
    """The table's rules for one layer, where it is called so in our model and so in theirs."""
    return [
        Rule(
            _renamed(rule.ours, "layers.{n}", ours),
            _renamed(rule.theirs, STACK[spelling] + ".{n}", theirs),
            rule.layout,
        )
        for rule in table
        if "{n}" in _first(rule.ours)
    ]


def _cross_rules(spelling: Spelling, ours: str, theirs: str, mlp_norm: str | None) -> list[Rule]:
    """What a layer with cross-attention has more than others, or has under another name."""
    renamed = [] if mlp_norm is None else [("mlp_norm", mlp_norm)]
    return [Rule(f"{ours}.{mine}.{{p}}", f"{theirs}.{name}.{{p}}") for mine, name in [*CROSS[spelling], *renamed]]


def _renamed(names: str | tuple[str, ...], old: str, new: str) -> str | tuple[str, ...]:
    if isinstance(names, str):
        return names.replace(old, new)
    return tuple(name.replace(old, new) for name in names)


def _first(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]
