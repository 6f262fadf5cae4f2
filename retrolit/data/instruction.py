"""From stores of conversations to training samples.

A sample is a conversation, filled up at its end, or several short ones packed one behind the other; `segments` then
says which is which. Of a conversation of n ids, n - 1 are inputs and the n - 1 that follow them labels, so no label
belongs to another conversation than its input:

    T = 8, two conversations a b c d and x y z:   inputs    a b c x y . . .
                                                  labels    b c d y z . . .
                                                  segments  0 0 0 1 1 -1 -1 -1

Which conversations a sample holds is a pure function of (seed, global sample number): an endless blend of the stores,
in each of which every epoch has an order of its own; packing divides the blend into groups and packs each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from retrolit.data.batch import Batch
from retrolit.data.order import SeededOrder
from retrolit.tokens.blend import Blend
from retrolit.tokens.prepare_conversations import ConversationStore

PACKED_TOGETHER = 512
"""Consecutive conversations of the blend that are packed among themselves."""

Place = tuple[int, int]
"""Of a conversation: the number of its store, and its own in it."""


@dataclass
class SampleShape:
    """What a sample is made of."""

    sequence_length: int
    """T: tokens of a packed sample, and at most of any other."""

    chunk_length: int
    """M: an unpacked batch is as long as its longest conversation, filled up to a multiple of it."""

    num_neighbors: int = 0
    """K: contexts of a conversation that each of its chunks has as neighbors."""

    neighbor_length: int = 0
    """R: tokens of a neighbor."""

    def width(self, num_inputs: int) -> int:
        """Tokens that a conversation takes up: whole chunks where there are neighbors, as no chunk spans two."""
        return -(-num_inputs // self.chunk_length) * self.chunk_length if self.num_neighbors else num_inputs


class ConversationOrder:
    """The endless sequence of one store's conversations: epoch after epoch, each in an order of its own."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._epoch = (-1, SeededOrder(1))

    def __getitem__(self, number: int) -> int:
        epoch, position = divmod(number, self.size)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, SeededOrder(self.size, self.seed, epoch))
        return self._epoch[1][position]


class InstructionSamples(Dataset[Batch]):
    """Training samples of several stores of conversations, drawn by weight: a list of sample numbers -> Batch.

    Args:
        stores: At least one conversation each, none longer than sequence_length + 1.
        blend: Of the stores, by conversations.
        shape: Of the samples.
        seed: Of the stores' orders.
        packed: Several conversations to a sample, as many as have room.
    """

    def __init__(
        self, stores: Sequence[ConversationStore], blend: Blend, shape: SampleShape, seed: int, packed: bool
    ) -> None:
        self.stores = stores
        self.blend = blend
        self.shape = shape
        self.orders = [ConversationOrder(len(store), seed) for store in stores]
        self.packing = Packing(self, shape.sequence_length) if packed else None

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        return make_batch(
            self.stores, [self.places(number) for number in numbers], self.shape, self.packing is not None
        )

    def places(self, number: int) -> list[Place]:
        """The conversations of the sample with this global number."""
        if self.packing is not None:
            return [self.place(draw) for draw in self.packing.draws(number)]
        return [self.place(number)]

    def place(self, draw: int) -> Place:
        """The conversation of this draw of the blend."""
        store, number = self.blend[draw]
        return store, self.orders[store][number]

    def num_draws(self, num_samples: int) -> int:
        """How many draws of the blend the first samples hold."""
        return num_samples if self.packing is None else self.packing.num_draws(num_samples)

    def num_inputs(self, place: Place) -> int:
        """Of one conversation."""
        starts = self.stores[place[0]].document_starts
        return int(starts[place[1] + 1] - starts[place[1]]) - 1


class Packing:
    """Which draws share a sample: each group of PACKED_TOGETHER is packed by itself, the longest conversation first,
    each into the first sample with room (first-fit decreasing).

    The groups before a sample have to be packed once to know its number: about 5 microseconds a conversation.
    """

    def __init__(self, samples: InstructionSamples, sequence_length: int) -> None:
        self.samples = samples
        self.sequence_length = sequence_length
        self._first: list[int] = [0]
        """Number of the first sample of each group, and at the end that of the next group."""
        self._group: tuple[int, list[list[int]]] = (-1, [])

    def draws(self, number: int) -> list[int]:
        """The draws in this sample, in order."""
        while self._first[-1] <= number:
            self._first.append(self._first[-1] + len(self._pack(len(self._first) - 1)))
        group = int(np.searchsorted(self._first, number, side="right")) - 1
        return self._pack(group)[number - self._first[group]]

    def num_draws(self, num_samples: int) -> int:
        """How many draws the first samples hold."""
        if not num_samples:
            return 0
        self.draws(num_samples - 1)
        group = int(np.searchsorted(self._first, num_samples - 1, side="right")) - 1
        rest = self._pack(group)[: num_samples - self._first[group]]
        return group * PACKED_TOGETHER + sum(map(len, rest))

    def _pack(self, group: int) -> list[list[int]]:
        if self._group[0] != group:
            samples, shape = self.samples, self.samples.shape
            draws = range(group * PACKED_TOGETHER, (group + 1) * PACKED_TOGETHER)
            widths = {draw: shape.width(samples.num_inputs(samples.place(draw))) for draw in draws}
            packed: list[list[int]] = []
            room = np.zeros(PACKED_TOGETHER, np.int64)
            for draw in sorted(draws, key=lambda draw: -widths[draw]):
                fits = room[: len(packed)] >= widths[draw]
                place = int(fits.argmax()) if fits.any() else len(packed)
                if place == len(packed):
                    packed.append([])
                    room[place] = self.sequence_length
                packed[place].append(draw)
                room[place] -= widths[draw]
            # In the order of the blend: what was drawn first comes first.
            self._group = (group, sorted([sorted(together) for together in packed]))
        return self._group[1]


class InstructionEvaluation(Dataset[Batch]):
    """All conversations of several stores in order, each once and a sample of its own: a list of numbers -> Batch.

    Numbers past the end give samples that are masked whole, so that all devices can be given equally many.
    """

    def __init__(self, stores: Sequence[ConversationStore], shape: SampleShape) -> None:
        self.stores = stores
        self.shape = shape
        self.first = np.cumsum([0, *map(len, stores)])
        """Number of each store's first conversation, and at the end the number of all."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        return make_batch(self.stores, [self.places(number) for number in numbers], self.shape, packed=False)

    def places(self, number: int) -> list[Place]:
        """The conversation with this number; none past the end."""
        if number >= len(self):
            return []
        store = int(np.searchsorted(self.first, number, side="right")) - 1
        return [(store, number - int(self.first[store]))]


def make_batch(
    stores: Sequence[ConversationStore], rows: Sequence[Sequence[Place]], shape: SampleShape, packed: bool
) -> Batch:
    """The batch of these samples, each a list of conversations.

    Packed ones are all sequence_length long; others as long as the longest, filled up to a multiple of chunk_length.
    """
    longest = 1 if not packed else shape.sequence_length
    for store, conversation in (place for row in rows for place in row):
        longest = max(longest, len(stores[store][conversation]) - 1)
    length = min(-(-longest // shape.chunk_length) * shape.chunk_length, shape.sequence_length)
    tokens, labels = np.zeros((2, len(rows), length), np.int64)
    mask = np.zeros((len(rows), length), np.float32)
    segments = np.full((len(rows), length), -1, np.int64)
    num_chunks = length // shape.chunk_length
    grid = (len(rows), num_chunks, shape.num_neighbors, shape.neighbor_length)  # (B, L, K, R)
    neighbor_tokens, neighbor_mask = np.zeros(grid, np.int64), np.zeros(grid, bool)
    for row, places in enumerate(rows):
        begin = 0
        for number, (store, conversation) in enumerate(places):
            ids = stores[store][conversation]
            end = begin + len(ids) - 1
            tokens[row, begin:end], labels[row, begin:end] = ids[:-1], ids[1:]
            mask[row, begin:end] = stores[store].mask_of(conversation)[1:]
            segments[row, begin:end] = number
            chunks = slice(begin // shape.chunk_length, -(-end // shape.chunk_length))
            for k, neighbor in enumerate(stores[store].neighbors_of(conversation)[: shape.num_neighbors]):
                cut = neighbor[: shape.neighbor_length]
                neighbor_tokens[row, chunks, k, : len(cut)] = cut
                neighbor_mask[row, chunks, k, : len(cut)] = True
            begin += shape.width(len(ids) - 1)
    batch = Batch(torch.from_numpy(tokens), torch.from_numpy(labels), torch.from_numpy(mask))
    if packed:
        batch.segments = torch.from_numpy(segments)
    if shape.num_neighbors:
        batch.neighbor_tokens, batch.neighbor_mask = torch.from_numpy(neighbor_tokens), torch.from_numpy(neighbor_mask)
    return batch
