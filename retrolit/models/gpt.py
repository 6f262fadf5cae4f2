"""GPT: a decoder-only transformer, from token ids to logits.

B batch, T tokens, D width, V vocabulary, H heads, C channels of a head. The picture:

    tokens -> embedding (+ learned positions) -> N x [attention, MLP] -> final norm -> output (or the embedding again)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrolit.models.cache import KVCache
from retrolit.models.config import GPTConfig
from retrolit.models.layer import Cross, TransformerLayer, recomputed
from retrolit.models.loss import (
    CrossEntropy,
    Loss,
    Softmax,
    chunked_cross_entropy,
    masked_loss,
    softmax_over_logits,
)
from retrolit.models.norms import make_norm
from retrolit.models.rotary import RotaryTables
from retrolit.models.segments import positions_within, visible_within


class GPT(nn.Module):
    """A decoder-only transformer with the switches of its config. Freshly initialized; see `reset_parameters`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        """Keep only each layer's input during training and compute the layer again in the backward pass."""
        self.softmax: Softmax | None = None
        """Compiled, what the loss makes of logits; None for the loss's own steps, which are best on CPUs."""
        self.cross_entropy: CrossEntropy = chunked_cross_entropy
        """Exchanged where devices share the vocabulary."""
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

    def hidden_states(
        self, tokens: Tensor, cache: KVCache | None = None, cross: Cross | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """(B, T) token ids -> (B, T, D) after the final norm; `cross` is run in the layers with a cross-attention.

        `segments` (B, T) keeps texts that share a row apart: see segments.py. Raises ValueError where the tokens reach
        beyond learned positions or do not fit into the cache.
        """
        length = tokens.shape[1]
        start, positions, mask = 0, None, None
        if cache is not None:
            assert segments is None, "a cache holds one text a row"
            cache.check_room(length)
            start, positions, mask = cache.length, cache.positions(length), cache.mask(length, tokens.device)
        elif segments is not None:
            positions, mask = positions_within(segments), visible_within(segments)
        end = start + length
        x = self.embed(tokens, start, positions)  # (B, T, D)
        rotation = None
        if self.rotary is not None:
            rotation = (
                self.rotary.span(start, end, tokens.device) if positions is None else self.rotary.at(positions, end)
            )
        recompute = cache is None and self.recomputes
        for index, layer in enumerate(self.layers):
            if recompute and (cross is None or layer.cross_attention is None):
                x = recomputed(layer)(x, rotation, mask)
            else:
                x = layer(x, rotation, mask, None if cache is None else cache.layers[index], cross, recompute)
        return x if self.final_norm is None else self.final_norm(x)

    @property
    def recomputes(self) -> bool:
        """Whether what a forward pass would keep is now computed again in the backward pass."""
        return self.checkpoint_activations and self.training and torch.is_grad_enabled()

    def embed(self, tokens: Tensor, start: int = 0, positions: Tensor | None = None) -> Tensor:
        """(..., T) token ids -> (..., T, D), with learned positions counted from `start`, or those given (B, T)."""
        x = self.embedding(tokens)
        if self.position_embedding is not None:
            end = start + tokens.shape[-1]
            self._check_reach(end)
            span = torch.arange(start, end, device=tokens.device) if positions is None else positions
            x = x + self.position_embedding(span)
        return self.dropout(x)

    def loss(
        self, tokens: Tensor, labels: Tensor, loss_mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Loss:
        """Cross-entropy of `labels` (B, T), each the token after that of `tokens`, without ever holding all logits.

        `loss_mask` (B, T), bool or float, weighs the tokens in the mean; every token counts 1 when not given. Masked
        labels must be ids of the vocabulary too. A mask that keeps nothing gives a mean of 0. `segments` (B, T) keeps
        texts that share a row apart: see segments.py.
        """
        hidden = self.hidden_states(tokens, segments=segments)
        return self.loss_of(hidden, labels, loss_mask)

    def loss_of(self, hidden: Tensor, labels: Tensor, loss_mask: Tensor | None = None) -> Loss:
        """As `loss`, of hidden states (B, T, D) that are there already."""
        return masked_loss(hidden, self.output_weight, labels, loss_mask, self.softmax, self.cross_entropy)

    def compile_layers(self, **options: Any) -> None:
        """Have torch.compile, with these options, compile each layer and the loss; all layers share what it makes.

        Layers with cross-attention are compiled half by half: between lies what `cross` remembers from layer to layer.
        """
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            if layer.cross_attention is None:
                layer.compile(**options)
            else:
                layer.compile_halves(**options)
        self.softmax = torch.compile(softmax_over_logits, dynamic=False, **options)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: N(0, init_std), projections back into the residual stream init_std / sqrt(2 num_layers).

        Biases 0, norms the identity. The same generator state gives the same weights.
        """
        initialize(self._own_modules(), self.config, generator)

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
        inside = sum(
            module.weight.numel()
            for name, module in self._own_modules()
            if isinstance(module, nn.Linear) and name != "output"
        )
        multiplying = inside + self.output_weight.numel()
        attention = 12 * config.num_layers * config.num_attention_heads * config.head_dim * sequence_length
        return 6 * multiplying + attention

    def _own_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All parts by name, but for the cross-attention that Retro may have put into layers."""
        return ((name, part) for name, part in self.named_modules() if "cross_attention" not in name)

    def _check_reach(self, end: int) -> None:
        if end > self.config.max_position_embeddings:
            raise ValueError(
                f"tokens: expected at most {self.config.max_position_embeddings} positions "
                f"(max_position_embeddings, learned), got {end}; shorten the sequence or use rope"
            )


@torch.no_grad()
def initialize(
    modules: Iterable[tuple[str, nn.Module]], config: GPTConfig, generator: torch.Generator | None = None
) -> None:
    """Fresh weights for these modules, named as in a GPT, by the rule of `GPT.reset_parameters`, in their order."""
    assert config.init_std is not None
    scaled = config.init_std / (2 * config.num_layers) ** 0.5
    for name, module in modules:
        if isinstance(module, nn.Linear):
            into_residual = name.endswith(("attention.output", "mlp.down"))
            nn.init.normal_(module.weight, std=scaled if into_residual else config.init_std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=config.init_std, generator=generator)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()
