"""A model in the middle of texts: it has read the prompts, reads one token a row at a time, and says what may follow.

B rows (texts), T columns of the longest prompt, V vocabulary. `Reading` reads with a GPT; retrieval.py has the reading
that seeks neighbors on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retrolit.models import GPT, KVCache

# Columns of the prompts that are read at once: bounds the memory that activations and attention masks take.
PIECE = 512


class Reading:
    """A GPT reading texts, each token once: `prompts`, then `next` as often as wanted, at most `max_new_tokens` - 1
    times (the last new token is drawn, never read)."""

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        length = max(len(prompt) for prompt in prompts)
        self.padding = torch.tensor([length - len(prompt) for prompt in prompts])
        self.prompt = torch.zeros(len(prompts), length, dtype=torch.long)  # (B, T); the padding's id is of no account
        for row, prompt in zip(self.prompt, prompts, strict=True):
            row[length - len(prompt) :] = torch.tensor(prompt)
        self.model = model
        self.cache = self.make_cache(length + max_new_tokens - 1)

    def make_cache(self, room: int) -> KVCache:
        """An empty cache for so many columns."""
        weight = self.model.embedding.weight
        return KVCache(
            self.model.config, len(self.prompt), room, self.padding, device=weight.device, dtype=weight.dtype
        )

    def prompts(self) -> Tensor:
        """Reads the prompts; the logits after each, (B, V)."""
        *first, last = self.prompt.split(PIECE, dim=1)
        for piece in first:
            self.read(piece)
        return self.model.logits(self.read(last)[:, -1])

    def next(self, tokens: Tensor) -> Tensor:
        """Reads one more token a row, (B,); the logits after it, (B, V)."""
        return self.model.logits(self.read(tokens[:, None])[:, -1])

    def read(self, tokens: Tensor) -> Tensor:
        """Reads the next columns, (B, T') -> (B, T', D)."""
        return self.model.hidden_states(tokens.to(self.model.embedding.weight.device), self.cache)

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these, (kept rows,) int64: the texts that are not finished."""
        self.cache.keep(rows)
