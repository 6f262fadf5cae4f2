"""Windows inside documents: which labels count, and with what context."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from retrolit.data.document_windows import DocumentWindows
from retrolit.tokens import TokenStore, write_store


@pytest.fixture
def make_store(tmp_path):
    def make(name: str, *lengths: int) -> TokenStore:
        """Documents of so many tokens, the last of which ends each; all tokens of a store differ."""
        ends = np.cumsum([0, *lengths])
        documents = [list(range(start, end)) for start, end in pairwise(ends)]
        write_store(tmp_path / name, documents, 70_000)
        return TokenStore(tmp_path / name)

    return make


def test_the_example(make_store):
    windows = DocumentWindows([make_store("one", 15)], sequence_length=8, stride=4)
    batch = windows[[0, 1, 2]]
    counted = [row[mask.bool()].tolist() for row, mask in zip(batch.labels, batch.loss_mask, strict=True)]
    assert counted == [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12], [13, 14]]
    assert batch.tokens[:, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_every_token_but_a_documents_first_counts_once_with_its_own_document_only(make_store, stride):
    lengths = (1, 2, 7, 8, 9, 10, 12, 13, 16, 17, 18, 25, 1, 40)
    stores = [make_store("one", *lengths), make_store("two", 5, 30)]
    windows = DocumentWindows(stores, sequence_length=8, stride=stride)
    counts = [np.zeros(store.num_tokens, dtype=int) for store in stores]
    for number in range(len(windows)):
        batch = windows[[number]]
        stream, start = windows.locate(number)
        document = np.searchsorted(stores[stream].document_starts, start, side="right") - 1
        first, end = stores[stream].document_starts[document : document + 2]
        for label in np.flatnonzero(batch.loss_mask[0]).tolist():
            position = start + 1 + label
            assert first <= start < position < end
            assert batch.labels[0, label] == position
            assert batch.tokens[0, : label + 1].tolist() == list(range(start, position))
            assert label + 1 >= min(position - first, 8 - stride)  # context
            counts[stream][position] += 1
    for store, count in zip(stores, counts, strict=True):
        assert np.flatnonzero(count == 0).tolist() == store.document_starts[:-1].tolist()
        assert count.max() == 1


def test_numbers_past_the_end_are_masked_whole(make_store):
    windows = DocumentWindows([make_store("one", 15)], sequence_length=8, stride=4)
    assert len(windows) == 3
    batch = windows[[2, 3]]
    assert batch.loss_mask.sum(dim=1).tolist() == [2, 0]
    assert windows.locate(3) == (0, 15)
    assert len(DocumentWindows([make_store("two", 1, 1)], 8, 4)) == 0
