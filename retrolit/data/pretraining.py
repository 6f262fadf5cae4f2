"""From token streams to training samples.

A split of a corpus is one stream: its documents in order, each closed by the end-of-document token. A sample is
T + 1 consecutive stream tokens that start at a multiple of M (chunk_length): T inputs and, one further on, T labels.
So every chunk of a sample is a chunk of the stream, and what is known about stream chunks serves every sample.

    T = 8, M = 4, a stream of 30 tokens, an epoch shifted by one chunk: inputs 4..11, 12..19, 20..27

Which sample comes when is a pure function of (seed, global sample number): nothing has to be remembered to stop and go
on anywhere. In training each epoch visits all windows of a stream once, in an order of its own, from a start shifted
by a number of chunks of its own, so that no token always sits at a window's end. In evaluation the windows come in
order and every token is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from retrolit.data.batch import Batch
from retrolit.data.neighbors import Place, SampleNeighbors
from retrolit.data.order import SeededOrder
from retrolit.data.practice import Practice
from retrolit.tokens.blend import Blend


class Stream(Protocol):
    """The part of a TokenStore that samples are cut from."""

    @property
    def tokens(self) -> np.ndarray:
        """All token ids of the split, 1-D."""
        ...


class TrainingWindows:
    """The endless sequence of training windows of one stream, by number: epoch after epoch, each in its own order."""

    def __init__(self, stream: Stream, sequence_length: int, chunk_length: int, seed: int, name: str) -> None:
        num_tokens = len(stream.tokens)
        if num_tokens <= sequence_length:
            raise ValueError(
                f"{name}: expected more tokens than one sample's {sequence_length + 1}, got {num_tokens}; "
                "give it more text or lower sequence_length"
            )
        # So many that a window's length of shifts has room, and as many shifts as reach the stream's end.
        self.windows_per_epoch = max(1, (num_tokens - 1 - sequence_length + chunk_length) // sequence_length)
        spare = num_tokens - 1 - self.windows_per_epoch * sequence_length
        self.num_shifts = spare // chunk_length + 1
        self.stream = stream
        self.sequence_length = sequence_length
        self.chunk_length = chunk_length
        self.seed = seed
        self._epoch = (-1, SeededOrder(1), 0)

    def __getitem__(self, number: int) -> np.ndarray:
        """(T + 1,) token ids of the window with this number, 0 or more."""
        start = self.start(number)
        return self.stream.tokens[start : start + self.sequence_length + 1]

    def start(self, number: int) -> int:
        """Where in the stream the window begins: a multiple of chunk_length."""
        epoch, position = divmod(number, self.windows_per_epoch)
        order, shift = self._order_and_shift(epoch)
        return shift * self.chunk_length + order[position] * self.sequence_length

    def accounting(self) -> Accounting:
        """What one epoch makes of the stream's tokens."""
        trained = self.windows_per_epoch * self.sequence_length
        return Accounting(stream=len(self.stream.tokens), trained=trained, dropped=len(self.stream.tokens) - trained)

    def _order_and_shift(self, epoch: int) -> tuple[SeededOrder, int]:
        if self._epoch[0] != epoch:
            order = SeededOrder(self.windows_per_epoch, self.seed, epoch)
            # The shifts of num_shifts epochs are all different: an order of their own.
            cycle, turn = divmod(epoch, self.num_shifts)
            self._epoch = (epoch, order, SeededOrder(self.num_shifts, self.seed, cycle, -1)[turn])
        return self._epoch[1:]


@dataclass
class Accounting:
    """Tokens of one epoch of a stream: trained + dropped = stream."""

    stream: int
    """All tokens of the stream."""

    trained: int
    """Tokens that are a label once."""

    dropped: int
    """Tokens that are no label in this epoch: before the first window, after the last, and the very first token."""


class PretrainingSamples(Dataset[Batch]):
    """Training samples of several streams, drawn by weight: a list of global sample numbers -> Batch."""

    def __init__(
        self, windows: Sequence[TrainingWindows], blend: Blend, neighbors: SampleNeighbors | None = None,
        practice: Practice | None = None,
    ) -> None:  # fmt: skip
        self.windows = windows
        self.blend = blend
        self.neighbors = neighbors
        self.practice = practice

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        batch = make_batch([self.sample(number) for number in numbers])
        if self.neighbors is None:
            return batch
        batch = self.neighbors.add_to(batch, [self.place(n) for n in numbers])
        return batch if self.practice is None else self.practice.add_to(batch, numbers, self.windows[0].chunk_length)

    def place(self, number: int) -> Place:
        """Where the sample with this global number begins."""
        stream, window = self.blend[number]
        return stream, self.windows[stream].start(window)

    def sample(self, number: int) -> np.ndarray:
        """(T + 1,) token ids of the sample with this global number."""
        stream, window = self.blend[number]
        return self.windows[stream][window]


class EvaluationSamples(Dataset[Batch]):
    """All windows of several streams in order, every token but a stream's first a label exactly once.

    A list of window numbers -> Batch. A stream's last window is filled up with masked tokens, and numbers past the end
    give windows that are masked whole, so that all devices can be given equally many.
    """

    def __init__(
        self, streams: Sequence[Stream], sequence_length: int, neighbors: SampleNeighbors | None = None
    ) -> None:
        self.streams = streams
        self.neighbors = neighbors
        self.sequence_length = sequence_length
        lengths = [max(0, -(-(len(stream.tokens) - 1) // sequence_length)) for stream in streams]
        self.first_windows = np.cumsum([0, *lengths])
        """Number of each stream's first window, and at the end the number of all windows."""

    def __len__(self) -> int:
        return int(self.first_windows[-1])

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        windows = [self.window(number) for number in numbers]
        width = self.sequence_length + 1
        batch = make_batch([np.pad(window, (0, width - len(window))) for window in windows])
        # A window of n tokens has n - 1 labels.
        num_labels = torch.tensor([max(0, len(window) - 1) for window in windows])
        batch.loss_mask = (torch.arange(self.sequence_length) < num_labels[:, None]).float()  # (B, T)
        return batch if self.neighbors is None else self.neighbors.add_to(batch, [self.locate(n) for n in numbers])

    def window(self, number: int) -> np.ndarray:
        """(T + 1,) token ids, fewer in a stream's last window, none past the end."""
        stream, start = self.locate(number)
        return self.streams[stream].tokens[start : start + self.sequence_length + 1]

    def locate(self, number: int) -> Place:
        """Which stream a window is of, and at which of its tokens it begins; past the end for one that is not there."""
        if number >= len(self):
            return 0, len(self.streams[0].tokens)
        stream = int(np.searchsorted(self.first_windows, number, side="right")) - 1
        return stream, (number - int(self.first_windows[stream])) * self.sequence_length


def make_batch(windows: Sequence[np.ndarray]) -> Batch:
    """Windows of T + 1 token ids -> inputs and labels, every label counted."""
    tokens = torch.from_numpy(np.stack(windows).astype(np.int64))  # (B, T + 1)
    labels = tokens[:, 1:].contiguous()
    return Batch(tokens=tokens[:, :-1].contiguous(), labels=labels, loss_mask=torch.ones(labels.shape))
