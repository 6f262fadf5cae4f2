"""Which samples a device reads when, and the loop that reads them.

Everything is counted from the start of the run, so a loader begins at any optimizer step as if it had come there by
reading. With G samples in a global batch, m in a micro-batch and W devices, one optimizer step takes G / (m W)
micro-batches on each device:

    G = 8, m = 2, W = 2, step 5:   device 0 reads 40 41 | 44 45, device 1 reads 42 43 | 46 47
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from retrolit.data.batch import Batch

Numbers = Sequence[int]
"""The numbers of the samples of one micro-batch."""


def training_numbers(
    first_step: int, last_step: int, *, global_batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> Iterator[Numbers]:
    """The micro-batches of one device for optimizer steps first_step <= step < last_step."""
    stride = micro_batch_size * world_size
    for step in range(first_step, last_step):
        begin = step * global_batch_size + rank * micro_batch_size
        for start in range(begin, (step + 1) * global_batch_size, stride):
            yield range(start, start + micro_batch_size)


def evaluation_numbers(num_windows: int, *, micro_batch_size: int, rank: int, world_size: int) -> Iterator[Numbers]:
    """The micro-batches of one device that cover all windows; every device gets equally many, some past the end."""
    for start in range(0, num_windows, micro_batch_size * world_size):
        begin = start + rank * micro_batch_size
        yield range(begin, begin + micro_batch_size)


class Loader:
    """Reads the batches with these numbers, and counts how long they were waited for.

    Args:
        samples: A list of sample numbers -> Batch.
        numbers: Called when the reading begins: the numbers of each batch still to read.
        length: Number of batches of the whole run, those already read included.
        num_workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self, samples: Dataset[Batch], numbers: Callable[[], Iterable[Numbers]], length: int, num_workers: int = 0
    ) -> None:
        self.samples = samples
        self.numbers = numbers
        self.length = length
        self.num_workers = num_workers
        self.wait_seconds = 0.0
        """Time spent waiting for batches so far."""

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        loader = DataLoader(
            self.samples,
            batch_size=None,  # a number is a whole batch already
            sampler=self.numbers(),  # pyright: ignore[reportArgumentType] (any iterable will do)
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: a DataLoader draws from the global one when it starts, which would change dropout.
            generator=torch.Generator(),
        )
        batches = iter(loader)
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.wait_seconds += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where the reading begins follows from the optimizer step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do; with `state_dict` it tells Lightning that an epoch can be entered in the middle."""
