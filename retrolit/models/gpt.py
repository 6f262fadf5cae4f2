"""GPT: a decoder-only transformer, from token ids to logits.

B batch, T tokens, D width, V vocabulary, H heads, C channels of a head. The picture:

    tokens -> embedding (+ learned positions) -> N x [attention, MLP] -> final norm -> output (or the embedding again)
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from retrolit.models.cache import KVCache
from retrolit.models.config import GPTConfig
from retrolit.models.layer import Cross, TransformerLayer
from retrolit.models.loss import Loss, masked_loss
from retrolit.models.norms import make_norm
from retrolit.models.rotary import RotaryTables


class GPT(nn.Module):
    """A decoder-only transformer with the switches of its config. Freshly initialized; see `reset_parameters`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        """Keep only each layer's input during training and compute the layer again in the backward pass."""
        width = config.hidden_size
        learned, rope = config.position_embedding == "learned", config.position_embedding == "rope"
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, width) if learned else None
        self.rotary = RotaryTables(config) if rope else None
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.final_norm = make_norm(config) if config.final_norm else None
        self.output = None if config.tied_embeddings else nn.Linear(width, config.vocab_size, bias=False)
        self.reset_parameters()

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T); with a cache they continue what it holds."""
        return self.logits(self.hidden_states(tokens, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) of `hidden_states` -> (..., V)."""
        return F.linear(hidden, self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """(V, D): what turns hidden states into logits; the token embedding itself where the two are tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    def hidden_states(self, tokens: Tensor, cache: KVCache | None = None, cross: Cross | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, D) after the final norm; `cross` is run in the layers with a cross-attention.

        Raises ValueError where the tokens reach beyond learned positions or do not fit into the cache.
        """
        length = tokens.shape[1]
        start, positions, mask = 0, None, None
        if cache is not None:
            cache.check_room(length)
            start, positions, mask = cache.length, cache.positions(length), cache.mask(length, tokens.device)
        end = start + length
        x = self.embedding(tokens)  # (B, T, D)
        rotation = None
        if self.position_embedding is not None:
            self._check_reach(end)
            span = torch.arange(start, end, device=tokens.device) if positions is None else positions
            x = x + self.position_embedding(span)
        elif self.rotary is not None:
            rotation = (
                self.rotary.span(start, end, tokens.device) if positions is None else self.rotary.at(positions, end)
            )
        x = self.dropout(x)
        recompute = self.checkpoint_activations and self.training and torch.is_grad_enabled() and cache is None
        for index, layer in enumerate(self.layers):
            if recompute:
                x = cast(Tensor, checkpoint(layer, x, rotation, cross=cross, use_reentrant=False))
            else:
                x = layer(x, rotation, mask, None if cache is None else cache.layers[index], cross)
        return x if self.final_norm is None else self.final_norm(x)

    def loss(self, tokens: Tensor, labels: Tensor, loss_mask: Tensor | None = None) -> Loss:
        """Cross-entropy of `labels` (B, T), each the token after that of `tokens`, without ever holding all logits.

        `loss_mask` (B, T), bool or float, weighs the tokens in the mean; every token counts 1 when not given. Masked
        labels must be ids of the vocabulary too. A mask that keeps nothing gives a mean of 0.
        """
        return masked_loss(self.hidden_states(tokens), self.output_weight, labels, loss_mask)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: N(0, init_std), projections back into the residual stream init_std / sqrt(2 num_layers).

        Biases 0, norms the identity. The same generator state gives the same weights.
        """
        initialize(self, self.config, generator)

    def num_parameters(self) -> int:
        """Number of weights; tied embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int) -> int:
        """Matmul FLOPs of one token's forward and backward pass (PaLM, appendix B: causal attention counted in full).

        6 for every weight that multiplies (the output layer too, the embedding look-up not), and
        12 x layers x heads x head_dim x sequence_length for attention. Recomputation is not counted.
        """
        config = self.config
        assert config.head_dim is not None
        multiplying = self.output_weight.numel() + sum(
            module.weight.numel()
            for name, module in self.layers.named_modules()
            if isinstance(module, nn.Linear) and "cross_attention" not in name
        )
        attention = 12 * config.num_layers * config.num_attention_heads * config.head_dim * sequence_length
        return 6 * multiplying + attention

    def _check_reach(self, end: int) -> None:
        if end > self.config.max_position_embeddings:
            raise ValueError(
                f"tokens: expected at most {self.config.max_position_embeddings} positions "
                f"(max_position_embeddings, learned), got {end}; shorten the sequence or use rope"
            )


@torch.no_grad()
def initialize(module: nn.Module, config: GPTConfig, generator: torch.Generator | None = None) -> None:
    """Fresh weights for everything inside `module`, as `GPT.reset_parameters` says, in the order of its parts."""
    scaled = config.init_std / (2 * config.num_layers) ** 0.5
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            into_residual = name.endswith(("attention.output", "mlp.down"))
            nn.init.normal_(part.weight, std=scaled if into_residual else config.init_std, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=config.init_std, generator=generator)
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
            part.reset_parameters()
