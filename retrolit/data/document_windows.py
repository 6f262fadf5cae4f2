"""Windows inside documents, for evaluation: no token is predicted from another document's text.

The windows of a document overlap: each begins `stride` tokens after the one before it, and of its labels only those
count that are new, which have a context of at least T - stride tokens wherever their document has so many:

    T = 8, stride = 4, a document of 15 tokens, counted labels:  1 2 3 4 5 6 7 8 | 9 10 11 12 | 13 14
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from retrolit.data.batch import Batch
from retrolit.data.neighbors import Place, SampleNeighbors
from retrolit.data.pretraining import make_batch
from retrolit.tokens import TokenStore


class DocumentWindows(Dataset[Batch]):
    """All windows of the documents of several stores: a list of window numbers -> Batch.

    Every token but a document's first is a counted label exactly once. Numbers past the end give windows that are
    masked whole, so that all devices can be given equally many.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        sequence_length: int,
        stride: int,
        neighbors: SampleNeighbors | None = None,
    ) -> None:
        self.streams = stores
        self.sequence_length = sequence_length
        self.neighbors = neighbors
        windows = [_windows(np.asarray(store.document_starts), sequence_length, stride) for store in stores]
        self._stream = np.repeat(np.arange(len(stores)), [len(of_store) for of_store in windows])
        self._windows = np.concatenate([np.empty((0, 3), np.int64), *windows])

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        windows = [self.window(number) for number in numbers]
        width = self.sequence_length + 1
        batch = make_batch([np.pad(window, (0, width - len(window))) for window in windows])
        counted = torch.tensor([self._counted(number) for number in numbers])  # (B, 2): the first, and behind the last
        label = torch.arange(self.sequence_length)
        batch.loss_mask = ((label >= counted[:, :1]) & (label < counted[:, 1:])).float()  # (B, T)
        return batch if self.neighbors is None else self.neighbors.add_to(batch, [self.locate(n) for n in numbers])

    def window(self, number: int) -> np.ndarray:
        """(T + 1,) token ids, fewer at the end of a document, none past the last window."""
        if number >= len(self):
            return self.streams[0].tokens[:0]
        start, end, _ = self._windows[number]
        return self.streams[self._stream[number]].tokens[start:end]

    def locate(self, number: int) -> Place:
        """Which stream a window is of, and at which of its tokens it begins; past the end for one that is not there."""
        if number >= len(self):
            return 0, len(self.streams[0].tokens)
        return int(self._stream[number]), int(self._windows[number, 0])

    def _counted(self, number: int) -> tuple[int, int]:
        if number >= len(self):
            return 0, 0
        start, end, new = self._windows[number].tolist()
        return new, end - start - 1


def _windows(starts: np.ndarray, sequence_length: int, stride: int) -> np.ndarray:
    """Of all documents: start, end and first counted label of each window, (windows, 3)."""
    lengths = np.diff(starts)
    counts = np.where(lengths < 2, 0, 1 + np.maximum(0, -(-(lengths - 1 - sequence_length) // stride)))
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its document
    begin = starts[document] + number * stride
    end = np.minimum(begin + sequence_length + 1, starts[document + 1])
    return np.stack([begin, end, np.where(number, sequence_length - stride, 0)], axis=1)
