"""The model that every implementation builds, and the work that it is measured at.

A decoder of 12 layers, width 256, 4 heads, MLP 1024 and 8192 tokens reads 2 neighbors of 128 tokens a chunk of 64 in
its layers 6, 9 and 12; the encoder has 2 layers, as wide as the decoder, the first of which reads the chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LAYERS, WIDTH, HEADS, MLP_WIDTH, VOCABULARY, MAX_LENGTH = 12, 256, 4, 1024, 8192, 512
CHUNK, NEIGHBORS, RETRIEVED, ENCODER_LAYERS, RETRO_LAYERS = 64, 2, 128, 2, (6, 9, 12)

TRAIN_BATCH, TRAIN_LENGTH = 4, 512
PROMPT, NEW = 128, 256
THREADS = 2


@dataclass
class Candidate:
    """One implementation, ready to be measured."""

    model: nn.Module

    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    """Mean loss of tokens (B, T + 1), every token but the first predicted, with neighbors (B, S, K, R)."""

    generate: Callable[[Tensor, Tensor], Tensor] | None = None
    """A prompt (1, PROMPT) continued greedily, (1, PROMPT + NEW), with as many of the neighbors (1, S, K, R) as it has
    chunks that may read them."""


def random_tokens(*shape: int) -> Tensor:
    """Ids of the vocabulary; never 0, which some take for padding."""
    return torch.randint(1, VOCABULARY, shape)


def training_batch() -> tuple[Tensor, Tensor]:
    """Tokens (B, T + 1) and neighbors (B, S, K, R), the same for everyone."""
    torch.manual_seed(1)
    tokens = random_tokens(TRAIN_BATCH, TRAIN_LENGTH + 1)
    return tokens, random_tokens(TRAIN_BATCH, TRAIN_LENGTH // CHUNK, NEIGHBORS, RETRIEVED)


def generation_input() -> tuple[Tensor, Tensor]:
    """A prompt (1, PROMPT) and neighbors (1, S, K, R) of all chunks that its continuation has, a last short one too."""
    torch.manual_seed(1)
    chunks = -(-(PROMPT + NEW) // CHUNK)
    return random_tokens(1, PROMPT), random_tokens(1, chunks, NEIGHBORS, RETRIEVED)


def recompute_everything(logits: Callable[[Tensor], Tensor], prompt: Tensor) -> Tensor:
    """Greedy generation without a cache: all tokens so far, (1, T), are read again for every new one."""
    tokens = prompt
    for _ in range(NEW):
        tokens = torch.cat([tokens, logits(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens
