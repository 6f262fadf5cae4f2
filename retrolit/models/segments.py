"""Packed samples: several texts one behind the other in a row, none of which sees another.

B rows, T tokens. `segments` (B, T), int64, is the number of the text that each token belongs to; the tokens of a text
stand together. Padding has the number -1, before a text or behind it, and sees padding alone. Two texts and padding:

    segments   0  0  0 -1  1  1 -1
    position   0  1  2  0  0  1  0
"""

from __future__ import annotations

import torch
from torch import Tensor

PADDING = -1
"""The segment of columns that hold no text."""


def positions_within(segments: Tensor) -> Tensor:
    """(B, T) int64: every token's position in its text, counted from 0."""
    columns = torch.arange(segments.shape[1], device=segments.device)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return columns - torch.where(begins, columns, 0).cummax(dim=1).values


def visible_within(segments: Tensor) -> Tensor:
    """(B, 1, T, T) bool: which tokens each one attends to, those of its text up to and including itself."""
    length = segments.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (earlier & (segments[:, :, None] == segments[:, None, :]))[:, None]
