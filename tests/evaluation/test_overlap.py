"""Overlap with neighbors, against plain loops over strings of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrolit.data.batch import Batch
from retrolit.evaluation.overlap import NOTHING_TO_READ, chunk_overlap, label_runs, shared_runs
from retrolit.retrieval import ChunkDatabase, PreparedRetriever
from retrolit.retrieval.neighbors import KIND
from retrolit.storage import Manifest
from retrolit.tokens import TokenStore, write_store


def _longest_run(tokens: list[int], end: int, neighbors: list[list[int]]) -> int:
    """By trying every length, and every place in every neighbor."""
    longest = 0
    for length in range(1, end + 2):
        run = tokens[end + 1 - length : end + 1]
        if any(run == other[i : i + length] for other in neighbors for i in range(len(other))):
            longest = length
    return longest


def _random_neighbors(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a small alphabet (..., R), and masks of texts of any length, none included."""
    lengths = torch.randint(shape[-1] + 1, shape[:-1])
    return torch.randint(3, shape), torch.arange(shape[-1]) < lengths[..., None]


def _texts(tokens: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [text[there].tolist() for text, there in zip(tokens, mask, strict=True)]


def test_the_example():
    the, cat, sat, on, mat, a, log = range(7)
    neighbor = torch.tensor([[[the, cat, sat, on, the, mat]]])
    text = torch.tensor([[a, cat, sat, on, a, log]])
    runs = shared_runs(text, torch.ones_like(text, dtype=torch.bool), neighbor, torch.ones_like(neighbor).bool())
    assert runs.tolist() == [[0, 1, 2, 3, 0, 0]]


def test_runs_are_those_of_a_plain_loop():
    tokens, mask = _random_neighbors(40, 12)
    neighbors, neighbor_mask = _random_neighbors(40, 3, 15)
    runs = shared_runs(tokens, mask, neighbors, neighbor_mask)
    assert runs.max() >= 5
    for row, text in enumerate(_texts(tokens, mask)):
        others = _texts(neighbors[row], neighbor_mask[row])
        expected = [_longest_run(text, end, others) for end in range(len(text))]
        assert runs[row].tolist() == expected + [0] * (12 - len(text))


def test_a_label_is_looked_for_in_the_neighbors_that_predict_it():
    """Label i + 1 of chunk c in those of chunk c - 1; those of the sample's first chunk in none."""
    m, chunks, samples = 4, 3, 5
    stream = torch.randint(3, (samples, m * chunks + 1))
    neighbors, mask = _random_neighbors(samples, chunks, 2, 7)
    mask[0, 1] = False  # nothing was found
    mask[1:, :, :, 0] = True
    batch = Batch(stream[:, :-1], stream[:, 1:], torch.ones(samples, m * chunks), neighbors, mask)
    runs = label_runs(batch, m)
    assert runs.shape == (samples, m * chunks)
    for sample in range(samples):
        for label in range(1, m * chunks + 1):
            chunk = label // m - 1
            got = runs[sample, label - 1]
            if chunk < 0 or not mask[sample, chunk].any():
                assert got == NOTHING_TO_READ
                continue
            text = stream[sample, chunk * m : label + 1].tolist()
            others = _texts(neighbors[sample, chunk], mask[sample, chunk])
            assert got == _longest_run(text, len(text) - 1, others), (sample, label)


@pytest.fixture
def retriever(tmp_path) -> PreparedRetriever:
    """Chunks of 4 of an evaluation stream whose neighbors are known; 0 is the end of a document."""
    write_store(tmp_path / "train", [[5, 6, 7, 8, 1, 2, 0], [9, 9, 9, 9, 3, 4, 0]], 10)
    write_store(tmp_path / "test", [[5, 6, 7, 8, 6, 7, 1, 1, 0], [0], [0], [0], [3, 9, 9, 0]], 10)
    database = ChunkDatabase([TokenStore(tmp_path / "train")], 4)
    store = TokenStore(tmp_path / "test")
    ids = np.array([[0, 2], [0, -1], [2, 0], [0, 2]], dtype="<i4")
    table = tmp_path / "table"
    table.mkdir()
    ids.tofile(table / "ids.bin")
    np.zeros(ids.shape, dtype=np.float16).tofile(table / "distances.bin")
    settings = {"num_saved": 2, "chunk_length": 4}
    inputs = {"database": database.fingerprint, "store": store.fingerprint}
    files: dict = {"ids.bin": {}, "distances.bin": {}}
    Manifest(KIND, settings, inputs, {"chunks": 4, "dtype": "<i4"}, files).write(table)
    return PreparedRetriever(table, store, database)


def test_the_overlap_of_a_chunk_is_its_longest_run_over_its_length(retriever):
    """The whole; "6 7" of 4 tokens, and the continuation is looked at too; no text; "9 9" of 3."""
    overlap = chunk_overlap(retriever)
    assert overlap.tolist()[:2] == [1.0, 0.5]
    assert np.isnan(overlap[2])
    assert overlap[3] == pytest.approx(2 / 3)


def test_only_so_many_neighbors_are_looked_at(retriever):
    assert chunk_overlap(retriever, num_neighbors=1)[3] == 0
