"""One transformer layer: self-attention, then the MLP, each behind its norm and added to the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from retrolit.models.attention import SelfAttention
from retrolit.models.cache import LayerCache
from retrolit.models.config import GPTConfig
from retrolit.models.mlp import MLP
from retrolit.models.norms import make_norm
from retrolit.models.rotary import Rotation


class TransformerLayer(nn.Module):
    """A pre-norm layer. Retro puts a cross-attention between its two halves; in a plain GPT that is None."""

    def __init__(self, config: GPTConfig, *, causal: bool = True) -> None:
        super().__init__()
        self.parallel_residual = config.parallel_residual
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(config, causal=causal)
        self.cross_attention_norm: nn.Module | None = None
        self.cross_attention: nn.Module | None = None
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = config.hidden_dropout
        self.halves = (TransformerLayer.attend, TransformerLayer.transform)
        """What `compile_halves` exchanges; unbound, so that a copy of the layer runs its own weights."""

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        cross: Cross | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); rotation, mask and cache are the self-attention's, cross is for Retro's layers.

        With `recompute` what the halves keep is computed again in the backward pass; `cross` sees to what it keeps.
        """
        attend, transform = self.halves
        if recompute:
            attend, transform = recomputed(attend), recomputed(transform)
        attended = attend(self, x, rotation, mask, cache)
        if self.cross_attention is not None and cross is not None:
            attended = cross(self, attended)
        return transform(self, x, attended)

    def attend(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """The first half: x (B, T, D) and what self-attention finds."""
        return x + self.drop(self.attention(self.attention_norm(x), rotation, mask, cache))

    def transform(self, x: Tensor, attended: Tensor) -> Tensor:
        """The second half: the MLP's part added to `attended`."""
        source = x if self.parallel_residual else attended
        return attended + self.drop(self.mlp(self.mlp_norm(source)))

    def drop(self, found: Tensor) -> Tensor:
        """Dropout on what a sublayer adds. No module, whose call would take as long as a small product."""
        return F.dropout(found, self.dropout) if self.training and self.dropout else found

    def compile_halves(self, **options: Any) -> None:
        """Have torch.compile compile each half by itself: for layers between whose halves Retro's step is taken."""
        attend, transform = self.halves
        self.halves = (torch.compile(attend, **options), torch.compile(transform, **options))


P = ParamSpec("P")


def recomputed(step: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The step, keeping nothing but its inputs: what its backward pass needs it then computes again."""
    return partial(checkpoint, step, use_reentrant=False)  # pyright: ignore[reportReturnType]


Cross = Callable[[TransformerLayer, Tensor], Tensor]
"""Retro's step between the halves of a layer: the residual stream (B, T, D) with what cross-attention finds added."""
