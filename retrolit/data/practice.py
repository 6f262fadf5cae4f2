"""Practice in reading: neighbors that hold what comes next, given to some chunks while a Retro begins to learn.

In running text few tokens stand in a neighbor, so looking there hardly pays, and a small Retro does not learn it in the
time it has. At the beginning of training, for a share of the chunks, one neighbor is therefore exchanged for a passage
of the sample itself, which begins somewhere in the chunk and goes on as the text does:

    M = 4, R = 8, a sample       a b c d e f g h i j k l m
    its chunk 0                  a b c d
    a passage for it             c d e f g h i j      behind one of 1 to M tokens of the chunk comes what is asked

What the passage says can be learned from nothing but looking for the tokens before. Validation and test have none, nor
has training after `PracticeConfig.steps`; from there on the model learns when its neighbors are worth believing.

B samples, T tokens, M tokens of a chunk, L chunks of a sample, K neighbors of a chunk, R tokens of a neighbor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from retrolit.data.batch import Batch


@dataclass
class PracticeConfig:
    """For how long, and how often, a Retro practices reading."""

    steps: int
    """Optimizer steps from the start of the run."""

    share: float = 0.5
    """Of the chunks, those that read a passage of their own text in place of one neighbor."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"practice.steps: expected at least 1, got {self.steps}; leave practice out for none")
        if not 0 < self.share <= 1:
            raise ValueError(f"practice.share: expected a share above 0 and up to 1, got {self.share}")


@dataclass
class Practice:
    """Gives passages to the batches of a run; which ones follows from the seed and the samples' numbers alone."""

    share: float
    """Of the chunks."""

    num_samples: int
    """Samples with a lower number practice."""

    seed: int

    def add_to(self, batch: Batch, numbers: Sequence[int], chunk_length: int) -> Batch:
        """The batch of the samples with these global numbers, passages put in the place of neighbors."""
        assert batch.neighbor_tokens is not None
        assert batch.neighbor_mask is not None
        _, num_chunks, num_neighbors, width = batch.neighbor_tokens.shape
        text = torch.cat([batch.tokens, batch.labels[:, -1:]], dim=1)  # (B, T + 1)
        for row, number in enumerate(numbers):
            if number >= self.num_samples:
                continue
            draw = np.random.default_rng((self.seed, number))
            practicing = np.flatnonzero(draw.random(num_chunks) < self.share)
            neighbor = draw.integers(num_neighbors, size=num_chunks)[practicing]
            known = draw.integers(1, chunk_length + 1, size=num_chunks)[practicing]  # tokens before what is asked
            place = torch.from_numpy(((practicing + 1) * chunk_length - known)[:, None] + np.arange(width))
            there = place < text.shape[1]
            passages = text[row, place.clamp(max=text.shape[1] - 1)]
            batch.neighbor_tokens[row, practicing, neighbor] = passages.masked_fill(~there, 0)
            batch.neighbor_mask[row, practicing, neighbor] = there
        return batch
