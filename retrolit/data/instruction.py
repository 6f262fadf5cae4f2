"""From stores of conversations to training samples.

A sample is a conversation, filled up at its end, or several short ones packed one behind the other; `segments` then
says which is which. Of a conversation of n ids, n - 1 are inputs and the n - 1 that follow them labels, so no label
belongs to another conversation than its input:

    T = 8, two conversations a b c d and x y z:   inputs    a b c x y . . .
                                                  labels    b c d y z . . .
                                                  segments  0 0 0 1 1 -1 -1 -1

Where neighbors are read, padding goes before a conversation too, so that the end of its last prompt closes a chunk: as
when a reply is written, it begins with the neighbors of the question's end. For M = 4 and a reply d e behind a b c:

    inputs    . a b c d . . .
    segments  -1 0 0 0 0 -1 -1 -1

Which conversations a sample holds is a pure function of (seed, global sample number): an endless blend of the stores,
in each of which every epoch has an order of its own; packing divides the blend into groups and packs each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from retrolit.data.batch import Batch
from retrolit.data.order import SeededOrder
from retrolit.retrieval import ChunkDatabase
from retrolit.retrieval.conversation_neighbors import ConversationNeighbors
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
    """K: neighbors of each chunk: the first contexts of its conversation, or what was retrieved where it has none."""

    neighbor_length: int = 0
    """R: tokens of a neighbor."""

    def padding(self, store: ConversationStore, conversation: int) -> int:
        """Columns before a conversation's first token."""
        return int(-store.prompt_lengths[conversation] % self.chunk_length) if self.num_neighbors else 0

    def width(self, store: ConversationStore, conversation: int) -> int:
        """Columns that a conversation takes up: whole chunks where there are neighbors, as no chunk spans two."""
        used = self.padding(store, conversation) + store.num_inputs(conversation)
        return -(-used // self.chunk_length) * self.chunk_length if self.num_neighbors else used


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
        stores: At least one conversation each, of which none takes up more than sequence_length.
        blend: Of the stores, by conversations.
        shape: Of the samples.
        seed: Of the stores' orders.
        packed: Several conversations to a sample, as many as have room.
        retrieved: Of each store what was retrieved for its chunks; empty where nothing was.
    """

    def __init__(
        self, stores: Sequence[ConversationStore], blend: Blend, shape: SampleShape, seed: int, packed: bool,
        retrieved: Sequence[ConversationNeighbors] = (),
    ) -> None:  # fmt: skip
        self.stores = stores
        self.retrieved = retrieved
        self.blend = blend
        self.shape = shape
        self.orders = [ConversationOrder(len(store), seed) for store in stores]
        self.packing = Packing(self, shape.sequence_length) if packed else None

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        rows = [self.places(number) for number in numbers]
        return make_batch(self.stores, rows, self.shape, self.packing is not None, self.retrieved)

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

    def width(self, place: Place) -> int:
        """Columns that a conversation takes up."""
        return self.shape.width(self.stores[place[0]], place[1])


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
            samples = self.samples
            draws = range(group * PACKED_TOGETHER, (group + 1) * PACKED_TOGETHER)
            widths = {draw: samples.width(samples.place(draw)) for draw in draws}
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

    def __init__(
        self, stores: Sequence[ConversationStore], shape: SampleShape, retrieved: Sequence[ConversationNeighbors] = ()
    ) -> None:
        self.stores = stores
        self.retrieved = retrieved
        self.shape = shape
        self.first = np.cumsum([0, *map(len, stores)])
        """Number of each store's first conversation, and at the end the number of all."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        rows = [self.places(number) for number in numbers]
        return make_batch(self.stores, rows, self.shape, packed=False, retrieved=self.retrieved)

    def places(self, number: int) -> list[Place]:
        """The conversation with this number; none past the end."""
        if number >= len(self):
            return []
        store = int(np.searchsorted(self.first, number, side="right")) - 1
        return [(store, number - int(self.first[store]))]


def make_batch(
    stores: Sequence[ConversationStore], rows: Sequence[Sequence[Place]], shape: SampleShape, packed: bool,
    retrieved: Sequence[ConversationNeighbors] = (),
) -> Batch:  # fmt: skip
    """The batch of these samples, each a list of conversations.

    Packed ones are all sequence_length long; others as long as the longest, filled up to a multiple of chunk_length.
    """
    chunk_length, longest = shape.chunk_length, 1 if not packed else shape.sequence_length
    for store, conversation in (place for row in rows for place in row):
        longest = max(longest, shape.width(stores[store], conversation))
    length = min(-(-longest // chunk_length) * chunk_length, shape.sequence_length)
    tokens, labels = np.zeros((2, len(rows), length), np.int64)
    mask = np.zeros((len(rows), length), np.float32)
    segments = np.full((len(rows), length), -1, np.int64)
    neighbors = _Neighbors(len(rows), length // chunk_length, shape)
    for row, places in enumerate(rows):
        end = 0
        for number, (store, conversation) in enumerate(places):
            first = end // chunk_length
            ids = stores[store][conversation]
            begin = end + shape.padding(stores[store], conversation)
            columns = slice(begin, begin + len(ids) - 1)
            tokens[row, columns], labels[row, columns] = ids[:-1], ids[1:]
            mask[row, columns] = stores[store].mask_of(conversation)[1:]
            segments[row, columns] = number
            end += shape.width(stores[store], conversation)
            if shape.num_neighbors:
                contexts = [ids for ids in stores[store].neighbors_of(conversation) if len(ids)]
                chunks = slice(first, end // chunk_length)
                if contexts:
                    neighbors.put_contexts(row, chunks, contexts)
                elif retrieved:
                    neighbors.put_retrieved(row, chunks, retrieved[store][conversation])
    batch = Batch(torch.from_numpy(tokens), torch.from_numpy(labels), torch.from_numpy(mask))
    if packed or shape.num_neighbors:
        batch.segments = torch.from_numpy(segments)
    if shape.num_neighbors:
        batch.neighbor_tokens, batch.neighbor_mask = neighbors.read(retrieved[0].database if retrieved else None)
    return batch


class _Neighbors:
    """The neighbors of a batch while it is made: B samples of L chunks."""

    def __init__(self, num_samples: int, num_chunks: int, shape: SampleShape) -> None:
        grid = (num_samples, num_chunks, shape.num_neighbors)  # (B, L, K)
        self.shape = shape
        self.ids = np.full(grid, -1, np.int64)
        self.contexts = np.zeros((*grid, shape.neighbor_length), np.int64)
        self.context_mask = np.zeros(self.contexts.shape, bool)

    def put_contexts(self, row: int, chunks: slice, contexts: Sequence[np.ndarray]) -> None:
        """Every one of the chunks has the first contexts."""
        for k, ids in enumerate(contexts[: self.shape.num_neighbors]):
            cut = ids[: self.shape.neighbor_length]
            self.contexts[row, chunks, k, : len(cut)] = cut
            self.context_mask[row, chunks, k, : len(cut)] = True

    def put_retrieved(self, row: int, chunks: slice, ids: np.ndarray) -> None:
        """The chunks have the first of these, (L, num_saved); the last chunk, where it is not full, has none."""
        self.ids[row, chunks][: len(ids)] = ids[:, : self.shape.num_neighbors]

    def read(self, database: ChunkDatabase | None) -> tuple[Tensor, Tensor]:
        """Tokens and mask (B, L, K, R); what was retrieved is read from the database."""
        tokens, mask = self.contexts, self.context_mask
        if database is not None:
            found, there = database.neighbor_tokens(self.ids, self.shape.neighbor_length // self.shape.chunk_length)
            tokens, mask = np.where(there, found, tokens), mask | there
        return torch.from_numpy(tokens), torch.from_numpy(mask)
