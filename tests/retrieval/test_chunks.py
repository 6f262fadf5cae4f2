"""Chunk ids, spans, continuations and sources, against cutting every document by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from retrolit.retrieval import ChunkDatabase
from retrolit.tokens import TokenStore, write_store

EOD = 9
M = 64
LENGTHS = [63, 64, 65, 0, 127, 128, 129, 0, 0, 1, 200]


class Chunk(NamedTuple):
    store: int
    document: int
    offset: int
    text: list[int]
    continued: list[int]


def make_store(prefix: Path, lengths: list[int], first_token: int) -> TokenStore:
    """Documents of these lengths; every token has a number of its own, counted from `first_token`."""
    prefix.parent.mkdir(parents=True)
    ends = first_token + np.cumsum(lengths)
    documents = [[*range(end - length, end), EOD] for end, length in zip(ends.tolist(), lengths, strict=True)]
    write_store(prefix, documents, 100_000, [f"{prefix.parent.name}.jsonl:{i + 1}" for i in range(len(lengths))])
    return TokenStore(prefix)


def cut_by_hand(database: ChunkDatabase) -> list[Chunk]:
    chunks = []
    for number, store in enumerate(database.stores):
        for document in range(len(store)):
            text = store[document][:-1].tolist()
            chunks += [
                Chunk(number, document, at, text[at : at + M], text[at : at + 2 * M]) for at in range(0, len(text), M)
            ]
    return chunks


@pytest.fixture
def database(tmp_path: Path) -> ChunkDatabase:
    stores = [
        make_store(tmp_path / "wiki/train", LENGTHS, 10_000),
        make_store(tmp_path / "news/train", [0, 70, 3], 50_000),
    ]
    return ChunkDatabase(stores, M)


def test_every_chunk_lies_where_cutting_by_hand_puts_it(database: ChunkDatabase) -> None:
    expected = cut_by_hand(database)
    assert len(database) == len(expected) == 19
    spans = database.locate(np.arange(len(database)))
    for chunk, store, document, start, end in zip(expected, *spans, strict=True):
        assert (chunk.store, chunk.document) == (store, document)
        assert database.stores[store].tokens[start:end].tolist() == chunk.text
        assert start - database.stores[store].document_starts[document] == chunk.offset


def test_tokens_are_padded_and_their_number_given(database: ChunkDatabase) -> None:
    tokens, lengths = database.tokens(np.arange(len(database)))
    assert tokens.shape == (len(database), M)
    assert tokens.dtype == lengths.dtype == np.int64
    for chunk, row, length in zip(cut_by_hand(database), tokens, lengths, strict=True):
        assert row.tolist() == chunk.text + [0] * (M - length)
        assert EOD not in row


def test_a_neighbor_goes_on_inside_its_document_and_never_into_the_next(database: ChunkDatabase) -> None:
    ids = np.random.default_rng(0).permutation(len(database))
    tokens, mask = database.neighbor_tokens(ids)
    expected = cut_by_hand(database)
    for id, row, on in zip(ids, tokens, mask, strict=True):
        assert row[on].tolist() == expected[id].continued
        assert on.tolist() == sorted(on.tolist(), reverse=True)
        assert not row[~on].any()


def test_no_neighbor_is_masked_all_over(database: ChunkDatabase) -> None:
    ids = np.array([[3, -1], [-1, 0]])
    tokens, mask = database.neighbor_tokens(ids, num_retrieved_chunks=3)
    assert tokens.shape == mask.shape == (2, 2, 3 * M)
    assert not mask[ids == -1].any()
    assert not tokens[ids == -1].any()
    assert mask[ids != -1].any(axis=-1).all()


def test_documents_are_numbered_over_all_stores(database: ChunkDatabase) -> None:
    first = [0, len(database.stores[0])]
    expected = [first[chunk.store] + chunk.document for chunk in cut_by_hand(database)]
    assert database.documents(np.arange(len(database))).tolist() == expected
    assert database.num_documents == 14
    assert database.store_bounds.tolist() == [0, 16, 19]


def test_a_chunk_knows_its_source(database: ChunkDatabase) -> None:
    assert database.source(0) == "wiki/train: wiki.jsonl:1, tokens 0-62"
    assert database.source(3) == "wiki/train: wiki.jsonl:3, tokens 64-64"
    assert database.source(18) == "news/train: news.jsonl:3, tokens 0-2"


def test_a_store_added_at_the_end_changes_no_id_but_the_fingerprint(database: ChunkDatabase) -> None:
    first = ChunkDatabase(database.stores[:1], M)
    ids = np.arange(len(first))
    assert all(map(np.array_equal, first.locate(ids), database.locate(ids)))
    assert len({d.fingerprint for d in (first, database, ChunkDatabase(database.stores, 32))}) == 3


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
def test_any_chunk_length_covers_every_token_once(database: ChunkDatabase, length: int) -> None:
    cut = ChunkDatabase(database.stores, length)
    tokens, lengths = cut.tokens(np.arange(len(cut)))
    seen = tokens[np.arange(length) < lengths[:, None]]
    assert sorted(seen.tolist()) == sorted(t for store in database.stores for t in store.tokens.tolist() if t != EOD)


def test_a_database_without_a_chunk_is_empty(tmp_path: Path) -> None:
    empty = ChunkDatabase([make_store(tmp_path / "a/train", [0, 0], 100)], M)
    assert len(empty) == 0
    assert empty.tokens(np.arange(0))[0].shape == (0, M)
    assert not empty.neighbor_tokens(np.array([-1]))[1].any()
    with pytest.raises(ValueError, match="chunk id 0"):
        empty.neighbor_tokens(np.array([-1, 0]))


def test_it_pickles_for_worker_processes(database: ChunkDatabase) -> None:
    ids = np.arange(len(database))
    assert np.array_equal(pickle.loads(pickle.dumps(database)).tokens(ids)[0], database.tokens(ids)[0])


@pytest.mark.parametrize("id", [19, -2])
def test_an_id_of_another_database_is_refused(database: ChunkDatabase, id: int) -> None:
    with pytest.raises(ValueError, match=f"chunk id {id}: expected 0 to 18"):
        database.neighbor_tokens(np.array([0, id]))
    with pytest.raises(ValueError, match=f"chunk id {id}"):
        database.locate(np.array([id]))


def test_impossible_settings_are_refused(database: ChunkDatabase) -> None:
    with pytest.raises(ValueError, match="chunk_length: expected at least 1 token, got 0"):
        ChunkDatabase(database.stores, 0)
    with pytest.raises(ValueError, match="expected at least one token store"):
        ChunkDatabase([])


def test_a_checksum_names_the_tokens_and_where_documents_end(database: ChunkDatabase, tmp_path: Path) -> None:
    moved = ChunkDatabase([make_store(tmp_path / "one/train", [5], 1), *database.stores], M)
    first, end = (int(bound) for bound in database.store_bounds[:2])
    assert database.checksum(first, end) == moved.checksum(first + 1, end + 1)
    checksums = {database.checksum(start, start + 2) for start in range(first, end - 2)}
    assert len(checksums) == end - 2 - first
    write_store(tmp_path / "joined", [[1] * 65 + [EOD] + [1] * 64 + [EOD]], 10)
    write_store(tmp_path / "apart", [[1] * 65 + [EOD], [1] * 64 + [EOD]], 10)
    joined, apart = (ChunkDatabase([TokenStore(tmp_path / name)], M) for name in ("joined", "apart"))
    assert joined.checksum(0, len(joined)) != apart.checksum(0, len(apart))


def test_processes_map_where_the_documents_lie_and_read_no_index(database: ChunkDatabase, tmp_path: Path) -> None:
    def opened(folder: Path) -> ChunkDatabase:
        return ChunkDatabase([TokenStore(store.prefix) for store in database.stores], M, folder)

    first = opened(tmp_path / "kept")
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".npy"]
    for other in (opened(tmp_path / "kept"), pickle.loads(pickle.dumps(first))):
        assert not any("document_starts" in vars(store) for store in other.stores)
        assert isinstance(other._first_chunk.base.base, np.memmap)
        ids = np.arange(len(database))
        for ours, theirs in zip(other.locate(ids), database.locate(ids), strict=True):
            assert np.array_equal(ours, theirs)
        assert np.array_equal(other.neighbor_tokens(ids)[0], database.neighbor_tokens(ids)[0])
    (tmp_path / "file").touch()
    assert len(opened(tmp_path / "file")) == len(database)  # nothing can be written there
