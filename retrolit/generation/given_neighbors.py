"""Neighbors that are given with a prompt, as the paper's 48B reads a question's passages, in place of retrieved ones.

B rows (texts), S chunks completed at a time, K neighbors, R tokens of a neighbor. For a prompt of 10 tokens:

    chunks of M = 4   a b | c d e f | g h i j | k l m n | o ...     b, f, j and n: all read the neighbors anew
    whole_prompt      a b c d e f g h i j | k l m n o ...           only from j on, beside all of the prompt

The first is what a Retro sees that was tuned on conversations with contexts; the second is NVIDIA's generation: the
prompt is one chunk, and so is every further text of its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrolit.generation.reading import Reading
from retrolit.models import GPT, Retro, RetroCache

Texts = Sequence[Sequence[int]]
"""The ids of the neighbors of one prompt, the nearest first."""


@dataclass
class GivenNeighbors:
    """What a Retro reads with each prompt."""

    texts: Sequence[Texts]
    """Of each prompt; each text is cut to the R tokens that the model reads of a neighbor."""

    gate: float = 1.0
    """Scales what the neighbors add."""

    whole_prompt: bool = False
    """The prompt is one chunk, rather than chunks of the model's chunk_length."""

    def check(self, model: GPT | Retro, num_prompts: int) -> None:
        """Raises ValueError where these are not for this model or these prompts."""
        if not isinstance(model, Retro):
            raise ValueError("given: expected a Retro, which reads neighbors, got a GPT; leave them out")
        if len(self.texts) != num_prompts:
            raise ValueError(f"given.texts: expected those of {num_prompts} prompts, got {len(self.texts)}")

    def batch_size(self, wanted: int) -> int:
        """How many prompts can be read together: one where each has chunks as long as itself."""
        return 1 if self.whole_prompt else wanted


class GivenReading(Reading):
    """A Retro reading texts, and with every chunk the neighbors that were given with its row's prompt."""

    def __init__(
        self, model: Retro, given: GivenNeighbors, rows: Sequence[int], prompts: Sequence[Sequence[int]],
        max_new_tokens: int, eod_id: int,
    ) -> None:  # fmt: skip
        self.retro, self.given = model, given
        super().__init__(model.decoder, prompts, max_new_tokens)
        most, length = max(1, *(len(given.texts[row]) for row in rows)), model.config.retrieved_length
        self.tokens = torch.full((len(rows), most, length), eod_id)  # (B, K, R)
        self.mask = torch.zeros(self.tokens.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            for rank, text in enumerate(given.texts[row]):
                cut = torch.tensor(text[:length], dtype=torch.long)
                self.tokens[place, rank, : len(cut)] = cut
                self.mask[place, rank, : len(cut)] = True
        device = model.decoder.embedding.weight.device
        self.tokens, self.mask = self.tokens.to(device), self.mask.to(device)

    def make_cache(self, room: int) -> RetroCache:
        weight = self.model.embedding.weight
        batch, length = self.prompt.shape
        return RetroCache(
            self.retro.config, batch, room, length, self.padding,
            chunk_length=length if self.given.whole_prompt else None, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip

    def read(self, tokens: Tensor) -> Tensor:
        assert isinstance(self.cache, RetroCache)
        num_chunks, neighbors, mask = len(self.cache.ending_chunks(tokens.shape[1])), None, None
        if num_chunks and self.mask.any():
            shape = (len(tokens), num_chunks, *self.tokens.shape[1:])  # (B, S, K, R)
            neighbors = self.tokens[:, None].expand(shape)
            mask = None if self.mask.all() else self.mask[:, None].expand(shape)
        return self.retro.hidden_states(
            tokens.to(self.tokens.device), neighbors, mask, self.given.gate, cache=self.cache
        )

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]
