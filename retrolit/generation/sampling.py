"""From logits to the next token: what is allowed, how likely it is made, and the draw.

B rows (prompts), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SamplingConfig:
    """How text is continued. The steps are taken in the order repetition penalty, temperature, top-k, top-p."""

    max_new_tokens: int = 256
    """The most tokens that one prompt is continued by."""

    temperature: float = 1.0
    """Logits are divided by it: below 1 plainer text, above 1 wilder; 0 always takes the likeliest token (greedy)."""

    top_k: int | None = None
    """Only the k likeliest tokens may be drawn; all when not given."""

    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability may be drawn (nucleus); all when not given."""

    repetition_penalty: float = 1.0
    """Above 1 makes tokens of the prompt and of the text so far less likely (CTRL, section 4.1); 1 changes nothing."""

    stop: str | list[str] = field(default_factory=list)
    """A text, or several, at which generation ends; it is not part of the result."""

    stop_tokens: list[int] = field(default_factory=list)
    """Ids of tokens at which generation ends too, as it does at the end of the document."""

    seed: int | None = None
    """The same seed gives each prompt the same text, whatever it is batched with; a fresh one when not given."""

    def __post_init__(self) -> None:
        self.stop = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        _check("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, self.temperature >= 0, "at least 0 (0 is greedy)")
        _check("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1, or none for all tokens")
        _check("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0 and up to 1, or none")
        _check("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1 is none)")
        texts = all(isinstance(text, str) and text for text in self.stop)
        _check("stop", self.stop, texts, "texts of at least one character")


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"SamplingConfig.{name}: expected {expected}, got {value!r}")


def next_tokens(
    logits: Tensor, sampling: SamplingConfig, generators: Sequence[torch.Generator], seen: Tensor | None = None
) -> Tensor:
    """The token after each row: logits (B, V) -> (B,) int64.

    Each row is drawn with its own generator, so that no row's text depends on what it is batched with; greedy needs
    none. `seen` (B, V), bool, marks the tokens that the repetition penalty falls on.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    probabilities = logits.softmax(-1)  # (B, V)
    draws = [torch.multinomial(row, 1, generator=own) for row, own in zip(probabilities, generators, strict=True)]
    return torch.cat(draws)  # (B,)


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits of seen tokens, (B, V), divided by the penalty where positive and multiplied where negative."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k largest logits of each row become -inf; those equal to the k-th stay."""
    smallest_kept = logits.topk(min(k, logits.shape[-1])).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """All but the fewest likeliest tokens of a row that together reach probability p become -inf; one always stays."""
    ordered, order = logits.sort(descending=True)  # (B, V)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # what the likelier tokens reach without this one
    drop = before >= p
    drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), float("-inf"))
