"""What one training step reads.

B samples, T tokens, L chunks of a sample, K neighbors of a chunk, R tokens of a neighbor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """Samples side by side, each with the labels and the mask its loss is made of."""

    tokens: Tensor
    """(B, T) int64: what the model reads."""

    labels: Tensor
    """(B, T) int64: the token that follows each of `tokens`; always ids of the vocabulary, masked or not."""

    loss_mask: Tensor
    """(B, T) float32: 1 where the label counts, 0 where it does not (padding, prompts)."""

    neighbor_tokens: Tensor | None = None
    """(B, L, K, R) int64: retrieved neighbors of every chunk; None for a model without retrieval."""

    neighbor_mask: Tensor | None = None
    """(B, L, K, R) bool: True where `neighbor_tokens` holds a token, False where it holds padding."""

    segments: Tensor | None = None
    """(B, T) int64: which text of its sample a token belongs to (0, 1, ...), -1 for padding; None where every sample is
    one text that begins in the first column."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on this device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from where a GPU copies it without waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        present = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **{name: function(tensor) for name, tensor in present.items()})
