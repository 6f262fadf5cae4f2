"""How likely a model finds given continuations, with retrieval as when it writes them itself.

B rows, C tokens of the longest continuation, V vocabulary. A context is read as a prompt is: its chunks are counted
back from its end, so question and answer never share one (P1, section 4), and neighbors of the context's last chunk
are read from its last token on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from retrolit.generation import Generator
from retrolit.generation.reading import PIECE, Reading
from retrolit.generation.retrieval import RetrievingReading
from retrolit.models import Retro


@dataclass
class Likelihood:
    """Of one continuation behind its context."""

    log_probability: float
    """The natural logarithm, summed over its tokens."""

    greedy: bool
    """Every token of it is the likeliest: it is what the model would write at temperature 0."""


Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a context and of its continuation; neither is empty."""


def likelihoods(generator: Generator, pairs: Sequence[Pair], batch_size: int = 16) -> list[Likelihood]:
    """One for each pair, in their order; `batch_size` of them are computed together.

    What is longer than the model is meant for loses the beginning of its context. Raises ValueError where a context or
    a continuation is empty, or a continuation alone is too long.
    """
    limit = generator.decoder.config.max_position_embeddings
    fitting: list[tuple[list[int], list[int]]] = []
    for context, continuation in pairs:
        if not context or not 1 <= len(continuation) <= limit:
            raise ValueError(
                f"likelihoods: expected contexts of at least one token and continuations of 1 to {limit} (the model's "
                f"max_position_embeddings), got {len(context)} and {len(continuation)}"
            )
        # The last token of the continuation is never read.
        fitting.append((list(context)[-(limit + 1 - len(continuation)) :], list(continuation)))
    order = sorted(range(len(pairs)), key=lambda number: len(fitting[number][0]), reverse=True)
    found: dict[int, Likelihood] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found |= zip(batch, _batch(generator, [fitting[number] for number in batch]), strict=True)
    return [found[number] for number in range(len(pairs))]


@torch.no_grad()
def _batch(generator: Generator, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Likelihood]:
    longest = max(len(continuation) for _, continuation in pairs)
    reading = _reading(generator, [context for context, _ in pairs], longest)
    first = reading.prompts()  # (B, V): what may follow the contexts
    # Padding stands at the right, where nothing that counts comes after it.
    read = torch.zeros(len(pairs), longest - 1, dtype=torch.long)  # (B, C - 1)
    for row, (_, continuation) in zip(read, pairs, strict=True):
        row[: len(continuation) - 1] = torch.tensor(continuation[:-1])
    pieces = [reading.read(piece) for piece in read.split(PIECE, dim=1) if piece.shape[1]]
    hidden = torch.cat(pieces, dim=1) if pieces else None  # (B, C - 1, D)
    found = []
    for row, (_, continuation) in enumerate(pairs):
        logits = first[row : row + 1]
        if hidden is not None:
            logits = torch.cat([logits, generator.decoder.logits(hidden[row, : len(continuation) - 1])])
        chances = logits[:, : generator.tokenizer.vocab_size].float().log_softmax(-1)  # (own C, V)
        tokens = torch.tensor(continuation, device=chances.device)
        total = chances.gather(-1, tokens[:, None]).double().sum()
        found.append(Likelihood(float(total), bool((chances.argmax(-1) == tokens).all())))
    return found


def _reading(generator: Generator, contexts: Sequence[list[int]], new: int) -> Reading:
    if generator.retrieval is None:
        return Reading(generator.decoder, contexts, new)
    assert isinstance(generator.model, Retro)
    found = [[] for _ in contexts]
    return RetrievingReading(generator.model, generator.retrieval, generator.tokenizer, contexts, new, found)
