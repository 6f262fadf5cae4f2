"""The norms of a transformer: LayerNorm, Megatron's LayerNorm with a zero-centered gain, RMSNorm."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from retrolit.models.config import GPTConfig


class LayerNorm1P(nn.LayerNorm):
    """LayerNorm whose gain is 1 + weight (Megatron's layernorm1p, zero-centered gamma).

    The stored weight starts at 0, so weight decay pulls the gain toward 1 instead of 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight + 1, self.bias, self.eps)

    def reset_parameters(self) -> None:
        """Gain 1 (weight 0), bias 0."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class RMSNorm(nn.RMSNorm):
    """RMSNorm that follows its input's dtype: under autocast a head is bfloat16 while its gain is float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: GPTConfig) -> nn.LayerNorm | nn.RMSNorm:
    """The norm the config names, over hidden_size. Both LayerNorms have a bias, whatever `config.bias` says."""
    if config.normalization == "rmsnorm":
        return RMSNorm(config.hidden_size, eps=config.norm_epsilon)
    kind = LayerNorm1P if config.normalization == "layernorm1p" else nn.LayerNorm
    return kind(config.hidden_size, eps=config.norm_epsilon)
