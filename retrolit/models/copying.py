"""First weights of a cross-attention that copies: it looks for what it holds itself, and says what it finds.

Copying takes two things that are of use only together, a query that finds a token and an output that says what was
found, so a small model that starts from noise reaches neither in millions of tokens. Here queries and keys begin with
the same weights, so that a token finds itself, and the output with the values' transposed, so that what is found is
said (the "mimetic" start of Trockman and Kolter 2023, with the sign that copies). With `RetroConfig.shifted_keys` what
is found is the token that follows, which makes an induction head (Olsson et al. 2022) in one layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

MATCH = 36.0
"""The logit with which a normed vector finds itself, in the mean; another one is found with 0 ± MATCH / √C."""

SAID = 4.0
"""How many times its length a normed vector is added to the residual stream when it alone is found, in the mean."""


def copying_weights(
    num_heads: int, head_dim: int, hidden_size: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """The weights of a cross-attention of H heads of C channels and width D, drawn on the CPU.

    query (H C, D); key_value (2 H C, D), for each head its key, its value; output (D, H C).
    """
    inner = num_heads * head_dim
    match = torch.empty(inner, hidden_size, device="cpu")
    match.normal_(std=(MATCH / (hidden_size * head_dim**0.5)) ** 0.5, generator=generator)
    said = torch.empty(inner, hidden_size, device="cpu")
    said.normal_(std=(SAID / inner) ** 0.5, generator=generator)
    heads = (num_heads, 1, head_dim, hidden_size)
    pairs = torch.cat([match.view(heads), said.view(heads)], dim=1).flatten(0, 2)
    return {"query": match, "key_value": pairs, "output": said.T.contiguous()}
