"""Self-attention with grouped heads, on torch's fused kernels.

B batch, T new tokens, S tokens seen (S = T without a cache), D width, H query heads, G key/value heads, C channels of
a head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from retrolit.models.cache import LayerCache
from retrolit.models.config import GPTConfig
from retrolit.models.norms import RMSNorm
from retrolit.models.rotary import Rotation, rotate, rotate_parts


class SelfAttention(nn.Module):
    """softmax(q k / sqrt(C)) v: causal over the tokens up to and including one's own, otherwise over all of them.

    `qkv` has Megatron's order of rows: for each group its query heads, its key, its value, C rows each.
    """

    def __init__(self, config: GPTConfig, *, causal: bool = True) -> None:
        super().__init__()
        assert config.num_query_groups is not None
        assert config.head_dim is not None
        assert config.qkv_bias is not None
        self.num_heads = config.num_attention_heads
        self.num_groups = config.num_query_groups
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        self.causal = causal
        rows = (self.num_heads + 2 * self.num_groups) * self.head_dim
        self.qkv = nn.Linear(config.hidden_size, rows, bias=config.qkv_bias)
        self.output = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=config.bias)
        self.query_norm = RMSNorm(self.head_dim, eps=config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(self.head_dim, eps=config.norm_epsilon) if config.qk_norm else None

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). A mask, bool (1 or B, 1, 1 or T, S), says instead which tokens each one sees."""
        batch, length, _ = x.shape
        grouped = self.qkv(x).view(batch, length, self.num_groups, -1, self.head_dim)  # (B, T, G, H / G + 2, C)
        sizes = [self.num_heads // self.num_groups, 1, 1]
        if rotation is not None and self.query_norm is None:
            query, key, value = rotate_parts(grouped, sizes, 2, rotation)  # (B, H, T, C), (B, G, T, C) twice
        else:
            one_each = self.num_groups == self.num_heads
            parts = grouped.unbind(3) if one_each else [part.flatten(2, 3) for part in grouped.split(sizes, dim=3)]
            query, key, value = (part.transpose(1, 2) for part in parts)
            if self.query_norm is not None and self.key_norm is not None:
                query, key = self.query_norm(query), self.key_norm(key)
            if rotation is not None:
                query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.append(key, value)  # (B, G, S, C)
        shared = self.num_groups != self.num_heads
        if shared and cache is not None and length == 1:
            # The heads of a group are as many rows that read its keys, so that these need not be repeated for each.
            query, shared = query.reshape(batch, self.num_groups, -1, self.head_dim), False
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            # The kernel's causal triangle starts at the first key: right only for a sequence from its beginning.
            is_causal=self.causal and mask is None and (cache is None or length > 1),
            enable_gqa=shared,
        )
        attended = attended.reshape(batch, self.num_heads, length, self.head_dim)
        return self.output(attended.transpose(1, 2).reshape(batch, length, -1))
