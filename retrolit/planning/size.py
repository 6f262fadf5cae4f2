"""A model's parameters and FLOPs by part, without its weights: it is built on torch's meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from retrolit.models import GPT, Retro
from retrolit.models.layer import TransformerLayer

Trained = Literal["all", "decoder", "new"]
"""Which weights are trained: all, the decoder (InstructRetro at gate 0), encoder and cross-attention (RETRO)."""


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    parameters: dict[str, int]
    """By part: embedding, decoder layers, output (0 where it is the embedding); of a Retro encoder, cross_attention."""

    trained: int
    """Of all parameters."""

    outside: int
    """Parameters in no layer: embeddings, output, the final norm."""

    largest_layer: int
    """Parameters of the largest layer, its cross-attention included."""

    multiplied: int
    """Weights of the layers' matrix products, which bf16-mixed keeps a bfloat16 copy of."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())


def size_of(model: GPT | Retro, trained: Trained = "all") -> Size:
    """The parameters of this model; norms between the halves of Retro layers count as cross-attention."""
    parts = {"embedding": 0, "decoder layers": 0, "output": 0}
    if isinstance(model, Retro):
        parts |= {"encoder": 0, "cross-attention": 0}
    for name, weight in model.named_parameters():
        parts[_part_of(name)] += weight.numel()
    new = parts.get("encoder", 0) + parts.get("cross-attention", 0)
    total = sum(parts.values())
    layers = [part for part in model.modules() if isinstance(part, TransformerLayer)]
    sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
    multiplied = sum(part.weight.numel() for layer in layers for part in layer.modules() if isinstance(part, nn.Linear))
    counts = {"all": total, "decoder": total - new, "new": new}
    return Size(parts, counts[trained], total - sum(sizes), max(sizes), multiplied)


def _part_of(name: str) -> str:
    if name.startswith("encoder."):
        return "encoder"
    if "cross_attention" in name:
        return "cross-attention"
    name = name.removeprefix("decoder.")
    if name.startswith("layers."):
        return "decoder layers"
    return "output" if name.startswith(("output.", "final_norm.")) else "embedding"


def flops_by_part(model: GPT | Retro, sequence_length: int) -> dict[str, int]:
    """FLOPs of one token's forward and backward pass, as `GPT.flops_per_token` counts them."""
    decoder = model.config.decoder if isinstance(model, Retro) else model.config
    assert decoder.head_dim is not None
    width = decoder.num_attention_heads * decoder.head_dim
    parts = model.flops_by_part(sequence_length) if isinstance(model, Retro) else {}
    whole = parts.pop("decoder") if parts else model.flops_per_token(sequence_length)
    output = 6 * decoder.vocab_size * decoder.hidden_size
    attention = 12 * decoder.num_layers * width * sequence_length
    named = {name.replace("_", "-"): flops for name, flops in parts.items()}
    return {"decoder layers": whole - output - attention, "self-attention": attention, "output": output} | named
