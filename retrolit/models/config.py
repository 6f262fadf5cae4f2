"""What a GPT is made of: sizes and switches, checked when they are named.

Field names are those of Hugging Face and Megatron wherever the two agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

Normalization = Literal["layernorm", "layernorm1p", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "squared_relu", "swiglu", "geglu"]
PositionEmbedding = Literal["rope", "learned", "none"]

GATED_ACTIVATIONS = ("swiglu", "geglu")


@dataclass
class RopeScaling:
    """How rotary frequencies are stretched to reach beyond the length a model was trained on."""

    type: Literal["linear", "llama3"]
    """linear divides every frequency by `factor`; llama3 only the slow ones, with a ramp between."""

    factor: float
    """How many times longer the reach becomes."""

    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_max_position_embeddings / low_freq_factor are divided."""

    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_max_position_embeddings / high_freq_factor are kept."""

    original_max_position_embeddings: int = 8192
    """llama3: the length the model was first trained on."""

    def __post_init__(self) -> None:
        check_choice(self, "type", ("linear", "llama3"))
        check_positive(self, "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        if self.type == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"RopeScaling.high_freq_factor: expected more than low_freq_factor "
                f"({self.low_freq_factor}), got {self.high_freq_factor}"
            )


@dataclass
class GPTConfig:
    """Sizes and switches of a decoder-only transformer.

    One class covers GPT-2, GPT-NeoX, Llama, Mistral, Qwen, Nemotron and NVIDIA's Retro decoders.
    """

    vocab_size: int
    """Rows of the token embedding; at least the tokenizer's vocabulary."""

    hidden_size: int
    """Width of the residual stream (D)."""

    num_layers: int
    """Number of transformer layers."""

    num_attention_heads: int
    """Number of query heads (H)."""

    max_position_embeddings: int
    """The longest sequence the model is meant for, in tokens; with learned positions a hard limit."""

    num_query_groups: int | None = None
    """Number of key/value heads (grouped-query attention); as many as query heads when not given."""

    head_dim: int | None = None
    """Width of one head; hidden_size / num_attention_heads when not given."""

    ffn_hidden_size: int | None = None
    """Width of the MLP; when not given 4 x hidden_size, or 8/3 x hidden_size cut to a multiple of 64 if gated."""

    normalization: Normalization = "layernorm"
    """layernorm; layernorm1p (gain is 1 + weight: Megatron's zero-centered gamma); rmsnorm."""

    norm_epsilon: float = 1e-5
    """Added to the variance in every norm."""

    activation: Activation = "gelu"
    """The MLP's nonlinearity; swiglu and geglu have a gate. gelu is the exact one, gelu_tanh GPT-2's."""

    position_embedding: PositionEmbedding = "rope"
    """rope (rotary), learned (absolute) or none."""

    rotary_percent: float = 1.0
    """Share of each head's channels that rotate."""

    rotary_base: float = 10000.0
    """Base of the rotary frequencies (theta)."""

    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies; none when not given."""

    bias: bool = True
    """Biases in the linear layers (never in the output layer)."""

    qkv_bias: bool | None = None
    """Biases of query, key and value alone; as `bias` when not given."""

    tied_embeddings: bool = False
    """The output layer shares the token embedding's weight."""

    parallel_residual: bool = False
    """Attention and MLP read the same residual stream and are added together (GPT-NeoX)."""

    qk_norm: bool = False
    """RMSNorm over each head of query and key before rotation (Qwen3)."""

    final_norm: bool = True
    """A norm after the last layer; Megatron Core 0.8 to 0.15 built Retro without one."""

    attention_dropout: float = 0.0
    """Dropout on attention probabilities during training."""

    hidden_dropout: float = 0.0
    """Dropout on the embedding and on what each sublayer adds to the residual stream."""

    init_std: float | None = None
    """Standard deviation of the initial weights; sqrt(2 / (5 x hidden_size)) when not given, so that narrow models
    begin large enough to learn to copy. Output projections get init_std / sqrt(2 x num_layers)."""

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, dict):
            self.rope_scaling = RopeScaling(**self.rope_scaling)
        check_positive(
            self, "vocab_size", "hidden_size", "num_layers", "num_attention_heads", "max_position_embeddings",
            "norm_epsilon", "rotary_base",
        )  # fmt: skip
        if self.init_std is None:
            self.init_std = math.sqrt(2 / (5 * self.hidden_size))
        check_positive(self, "init_std")
        check_choice(self, "normalization", get_args(Normalization))
        check_choice(self, "activation", get_args(Activation))
        check_choice(self, "position_embedding", get_args(PositionEmbedding))
        if self.num_query_groups is None:
            self.num_query_groups = self.num_attention_heads
        check_positive(self, "num_query_groups")
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"GPTConfig.num_query_groups: expected a divisor of num_attention_heads "
                f"({self.num_attention_heads}), got {self.num_query_groups}"
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"GPTConfig.num_attention_heads: expected a divisor of hidden_size ({self.hidden_size}), "
                    f"got {self.num_attention_heads}; or name head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.ffn_hidden_size is None:
            gated = self.activation in GATED_ACTIVATIONS
            self.ffn_hidden_size = max(64, self.hidden_size * 8 // 3 // 64 * 64) if gated else 4 * self.hidden_size
        check_positive(self, "head_dim", "ffn_hidden_size")
        if self.qkv_bias is None:
            self.qkv_bias = self.bias
        if not 0 < self.rotary_percent <= 1:
            raise ValueError(
                f"GPTConfig.rotary_percent: expected a share above 0 and up to 1, got {self.rotary_percent}"
            )
        if self.position_embedding == "rope" and (self.rotary_dim < 2 or self.rotary_dim % 2):
            raise ValueError(
                f"GPTConfig.rotary_percent: expected an even number of rotating channels, got {self.rotary_dim} "
                f"of head_dim {self.head_dim}"
            )
        if self.rope_scaling is not None and self.position_embedding != "rope":
            raise ValueError(f"GPTConfig.rope_scaling: expected position_embedding rope, got {self.position_embedding}")
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"GPTConfig.{name}: expected at least 0 and below 1, got {getattr(self, name)}")

    @property
    def rotary_dim(self) -> int:
        """Number of channels of each head that rotate."""
        assert self.head_dim is not None
        return int(self.head_dim * self.rotary_percent)

    @classmethod
    def from_dict(cls, values: dict) -> GPTConfig:
        """The config with these field values; names that are no field raise ValueError."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"GPTConfig: unknown {', '.join(unknown)}; the fields are {', '.join(known)}")
        return cls(**values)


def check_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{type(config).__name__}.{name}: expected more than 0, got {getattr(config, name)}")


def check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{type(config).__name__}.{name}: expected one of {', '.join(choices)}; got {value!r}")
