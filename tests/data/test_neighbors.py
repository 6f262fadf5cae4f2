"""Neighbors of samples, against picking them chunk by chunk by hand, and with leaks planted in the tables."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from retrolit.data import EvaluationSamples, PretrainingSamples, SampleNeighbors, TrainingWindows
from retrolit.data.loading import Loader
from retrolit.retrieval import ChunkDatabase, PreparedRetriever
from retrolit.storage import Manifest
from retrolit.tokens import Blend, TokenStore, write_store

M, K, R = 8, 2, 16
EOD = 9999


def _store(folder: Path, lengths: list[int], first: int) -> TokenStore:
    """Documents of these lengths in which every token is another number, so that its document can be told."""
    numbers = iter(range(first, EOD))
    folder.mkdir()
    write_store(folder / "train", [[next(numbers) for _ in range(length)] + [EOD] for length in lengths], 10_000)
    return TokenStore(folder / "train")


def _table(folder: Path, store: TokenStore, database: ChunkDatabase, ids: np.ndarray) -> Path:
    """A neighbor table that says just this: ids (chunks, saved)."""
    folder.mkdir()
    ids.astype("<i4").tofile(folder / "ids.bin")
    np.zeros(ids.shape, np.float16).tofile(folder / "distances.bin")
    settings = {"num_saved": ids.shape[1], "chunk_length": M}
    inputs = {"store": store.fingerprint, "database": database.fingerprint}
    sizes = {"chunks": len(ids), "dtype": "<i4"}
    Manifest("neighbors", settings, inputs, sizes, {"ids.bin": {}, "distances.bin": {}}).write(folder)
    return folder


LENGTHS = [20, 7, 8, 9, 0, 40, 15, 16, 17, 3, 64, 30]


@pytest.fixture
def database(tmp_path) -> ChunkDatabase:
    return ChunkDatabase([_store(tmp_path / "a", LENGTHS, 0), _store(tmp_path / "b", [25, 1, 50], 5000)], M)


@pytest.fixture
def make_retriever(tmp_path, database):
    """Random neighbors, some missing, for the chunks of a store; every table holds many leaks by chance."""

    def make(store: TokenStore, saved: int = 6, seed: int = 0) -> PreparedRetriever:
        draw = np.random.default_rng(seed)
        chunks = -(-store.num_tokens // M)
        ids = np.sort(draw.integers(-60, len(database), (chunks, saved)).clip(-1))[
            :, ::-1
        ]  # what is missing comes last
        return PreparedRetriever(_table(tmp_path / f"table-{seed}", store, database, ids), store, database)

    return make


def _by_hand(retriever: PreparedRetriever, first_token: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask (L, K, R) of one sample, chunk by chunk and neighbor by neighbor."""
    store, database = retriever.store, retriever.database
    starts = store.document_starts
    tokens, mask = torch.zeros(length // M, K, R, dtype=torch.long), torch.zeros(length // M, K, R, dtype=torch.bool)
    sample = range(first_token, min(first_token + length + 1, store.num_tokens))  # the last label too
    present = {int(np.searchsorted(starts, position, side="right")) - 1 for position in sample}
    for chunk in range(length // M):
        number = first_token // M + chunk
        saved = retriever.table[number].tolist() if number < len(retriever.table) else []
        kept = []
        for id in saved:
            if id < 0:
                continue
            spans = database.locate(id)
            if database.stores[int(spans.store)].prefix == store.prefix and int(spans.document) in present:
                continue
            kept.append(spans)
        for rank, spans in enumerate(kept[:K]):
            other = database.stores[int(spans.store)]
            text = other.tokens[int(spans.start) : int(other.document_starts[int(spans.document) + 1]) - 1][:R]
            tokens[chunk, rank, : len(text)] = torch.from_numpy(text.astype(np.int64))
            mask[chunk, rank, : len(text)] = True
    return tokens, mask


@pytest.mark.parametrize("length", [M, 3 * M, 8 * M])
def test_neighbors_are_those_picked_by_hand(length, database, make_retriever):
    retriever = make_retriever(database.stores[0])
    neighbors = SampleNeighbors([retriever], K)
    places = [(0, start) for start in range(0, retriever.store.num_tokens, M)]  # up to the stream's end, and past it
    tokens, mask = neighbors(places, length)
    assert tokens.shape == mask.shape == (len(places), length // M, K, R)
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool)
    for row, (_, start) in enumerate(places):
        expected, expected_mask = _by_hand(retriever, start, length)
        assert torch.equal(mask[row], expected_mask), start
        assert torch.equal(tokens[row] * mask[row], expected), start
    # Something was there to be dropped, and something to be kept.
    assert 0 < int(mask.any(-1).sum()) < mask[..., 0].numel()


def test_a_planted_leak_never_appears(tmp_path, database):
    """The nearest neighbor of every chunk is the text that follows it; behind it stands one from elsewhere."""
    store = database.stores[0]
    chunks = -(-store.num_tokens // M)
    elsewhere = int(database.store_bounds[1])
    ids = np.full((chunks, 3), elsewhere)
    for chunk in range(chunks):
        position = min((chunk + 1) * M, store.num_tokens - 1)
        document = int(np.searchsorted(store.document_starts, position, side="right")) - 1
        found = [id for id in range(elsewhere) if int(database.locate(id).document) == document]
        ids[chunk, 0] = found[-1] if found else elsewhere
    assert (ids[:, 0] != elsewhere).mean() > 0.8
    retriever = PreparedRetriever(_table(tmp_path / "leaks", store, database, ids), store, database)
    windows = TrainingWindows(store, 3 * M, M, seed=1, name="words")
    samples = PretrainingSamples([windows], Blend([1.0]), SampleNeighbors([retriever], 1))
    for number in range(3 * windows.windows_per_epoch):
        batch = samples[[number]]
        assert batch.neighbor_tokens is not None
        assert batch.neighbor_mask is not None
        start = windows.start(number)
        first, last = np.searchsorted(store.document_starts, [start, start + 3 * M], side="right") - 1
        present = set(np.concatenate([store[i] for i in range(first, last + 1)]).tolist()) - {EOD}
        read = set(batch.neighbor_tokens[batch.neighbor_mask].tolist())
        assert read
        assert not read & present


def _loader(samples, batches, num_workers=0):
    return list(Loader(samples, lambda: batches, len(batches), num_workers))


def test_neighbors_are_the_same_in_any_batch_and_any_worker(database, make_retriever):
    retriever = make_retriever(database.stores[0])
    windows = TrainingWindows(retriever.store, 4 * M, M, seed=1, name="words")
    samples = PretrainingSamples([windows], Blend([1.0]), SampleNeighbors([retriever], K))
    numbers = list(range(12))
    alone = [samples[[number]] for number in numbers]
    for size, workers in ((3, 0), (12, 0), (4, 2)):
        batches = _loader(samples, [numbers[i : i + size] for i in range(0, 12, size)], workers)
        for name in ("tokens", "neighbor_tokens", "neighbor_mask"):
            expected = torch.cat([getattr(batch, name) for batch in alone])
            assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), expected), (size, workers, name)


def test_neighbors_of_text_outside_the_database_are_the_same_at_any_length(tmp_path, make_retriever):
    retriever = make_retriever(_store(tmp_path / "held-out", [60, 70, 62], 7000))
    neighbors = SampleNeighbors([retriever], K)
    tokens, mask = neighbors([(0, 0)], 24 * M)
    for length in (M, 2 * M, 6 * M):
        places = [(0, start) for start in range(0, 24 * M, length)]
        shorter, shorter_mask = neighbors(places, length)
        assert torch.equal(shorter.flatten(0, 1), tokens[0]), length
        assert torch.equal(shorter_mask.flatten(0, 1), mask[0]), length


def test_several_streams_keep_their_places(database, make_retriever):
    retrievers = [make_retriever(store, seed=seed) for seed, store in enumerate(database.stores)]
    neighbors = SampleNeighbors(retrievers, K)
    places = [(1, M), (0, 3 * M), (1, 0), (0, 0), (1, 2 * M)]
    together = neighbors(places, 2 * M)
    for row, (stream, start) in enumerate(places):
        expected = SampleNeighbors([retrievers[stream]], K)([(0, start)], 2 * M)
        assert all(torch.equal(one[row], other[0]) for one, other in zip(together, expected, strict=True))


def test_evaluation_reads_the_neighbors_of_its_windows(database, make_retriever):
    retriever = make_retriever(database.stores[1])
    samples = EvaluationSamples([retriever.store], 3 * M, SampleNeighbors([retriever], K))
    numbers = range(len(samples) + 2)  # two past the end
    batch = samples[numbers]
    assert batch.neighbor_tokens is not None
    assert batch.neighbor_mask is not None
    for number in numbers:
        expected, expected_mask = _by_hand(retriever, number * 3 * M, 3 * M)
        assert torch.equal(batch.neighbor_mask[number], expected_mask)
        assert torch.equal(batch.neighbor_tokens[number] * expected_mask, expected)
    assert not batch.neighbor_mask[-2:].any()


def test_random_neighbors_are_those_of_other_chunks_and_no_leak_either(database, make_retriever):
    retriever = make_retriever(database.stores[0])
    random = SampleNeighbors([retriever], K, random_seed=3)
    places = [(0, start) for start in range(0, 20 * M, 4 * M)]
    tokens, mask = random(places, 4 * M)
    assert not torch.equal(tokens, SampleNeighbors([retriever], K)(places, 4 * M)[0])
    for row, place in enumerate(places):  # a function of the place alone
        assert torch.equal(random([place], 4 * M)[0][0], tokens[row])
        first, last = np.searchsorted(retriever.store.document_starts, [place[1], place[1] + 4 * M], side="right") - 1
        present = set(np.concatenate([retriever.store[i] for i in range(first, last + 1)]).tolist())
        assert not set(tokens[row][mask[row]].tolist()) & present


def test_samples_with_neighbors_go_to_another_process_as_the_names_of_files(database, make_retriever):
    retriever = make_retriever(database.stores[0])
    windows = TrainingWindows(retriever.store, 4 * M, M, seed=1, name="words")
    samples = PretrainingSamples([windows], Blend([1.0]), SampleNeighbors([retriever], K))
    sent = pickle.dumps(samples)
    assert len(sent) < 3000
    batch, again = samples[[0, 5]], pickle.loads(sent)[[0, 5]]
    assert torch.equal(batch.neighbor_tokens, again.neighbor_tokens)
    assert torch.equal(batch.neighbor_mask, again.neighbor_mask)


def test_more_neighbors_than_are_saved_are_refused(database, make_retriever):
    with pytest.raises(ValueError, match=r"num_saved: the table holds 6 neighbors a chunk, this run asks for 7"):
        SampleNeighbors([make_retriever(database.stores[0])], 7)
