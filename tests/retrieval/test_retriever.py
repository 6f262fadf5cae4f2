"""Retrievers: live, prepared and from a dictionary answer alike."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import (
    DictionaryRetriever,
    LiveRetriever,
    NeighborConfig,
    PreparedRetrieval,
    PreparedRetriever,
    RetrievalConfig,
    Retriever,
    prepare_retrieval,
)
from retrolit.retrieval.prepare import EmbedderConfig
from retrolit.retrieval.retriever import find_index
from retrolit.retrieval.stream_chunks import StreamChunks
from retrolit.storage import read_json, write_json
from retrolit.tokens import TokenStore
from retrolit.tokens.prepare import CorpusConfig, PreparedTokens, TokenizerConfig, TokensConfig, prepare_tokens

M, K = 16, 3


@pytest.fixture
def tokens(tmp_path: Path, texts: list[str]) -> PreparedTokens:
    (tmp_path / "notes.txt").write_text("\n\n".join(texts))
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), separator="")}
    splits = {"train": 0.7, "validation": 0.3}
    return prepare_tokens(TokensConfig(corpora, TokenizerConfig("bytes"), splits), tmp_path / "prepared", processes=1)


@pytest.fixture
def prepared(tokens: PreparedTokens, tmp_path: Path) -> PreparedRetrieval:
    config = RetrievalConfig(M, embedder=EmbedderConfig(dimension=64), neighbors=NeighborConfig(8, 60))
    return prepare_retrieval(config, tokens, tmp_path / "prepared")


@pytest.fixture
def live(prepared: PreparedRetrieval) -> LiveRetriever:
    return LiveRetriever(prepared.index_folder)


def of_split(prepared: PreparedRetrieval, tokens: PreparedTokens, split: str) -> PreparedRetriever:
    store = TokenStore(tokens.stores[split]["notes"])
    return PreparedRetriever(prepared.tables[split]["notes"], store, prepared.database())


def test_live_finds_a_chunk_of_the_database_first(live: LiveRetriever) -> None:
    ids = np.arange(len(live.database))
    tokens, lengths = live.database.tokens(ids)
    found = live.retrieve(tokens, lengths, K)
    assert found.ids.shape == found.distances.shape == (len(ids), K)
    assert found.tokens.shape == found.mask.shape == (len(ids), K, 2 * M)
    same = np.array([np.array_equal(live.database.tokens([a])[0], live.database.tokens([b])[0])
                     for a, b in zip(ids, found.ids[:, 0], strict=True)])  # fmt: skip
    assert (same | (found.distances[:, 0] < 1e-3)).all()
    expected_tokens, expected_mask = live.database.neighbor_tokens(found.ids)
    np.testing.assert_array_equal(found.tokens, expected_tokens)
    np.testing.assert_array_equal(found.mask, expected_mask)
    assert live.source(int(found.ids[0, 0])) == live.database.source(int(found.ids[0, 0]))


def test_text_and_its_tokens_find_the_same(live: LiveRetriever) -> None:
    text = "copper violin"
    tokens = np.zeros((1, M), np.int64)
    tokens[0, : len(text)] = live.tokenizer.encode(text)
    by_tokens = live.retrieve(tokens, np.array([len(text)]), K)
    by_text = live.retrieve_text([text], K)
    np.testing.assert_array_equal(by_tokens.ids, by_text.ids)


def test_nothing_is_invented_for_a_chunk_without_words(live: LiveRetriever) -> None:
    found = live.retrieve(np.zeros((1, M), np.int64), np.array([0]), K)
    assert (found.ids == -1).all()
    assert np.isinf(found.distances).all()
    assert not found.mask.any()


def test_prepared_and_live_agree_on_what_is_not_in_the_database(
    prepared: PreparedRetrieval, tokens: PreparedTokens, live: LiveRetriever
) -> None:
    stored = of_split(prepared, tokens, "validation")
    chunks = StreamChunks(TokenStore(tokens.stores["validation"]["notes"]), M)
    queries = chunks.tokens(0, len(chunks))
    retrievers: list[Retriever] = [stored, live]
    numbers = np.arange(len(chunks))
    from_table, searched = [retriever.retrieve(*queries, k=K, chunks=numbers) for retriever in retrievers]
    np.testing.assert_allclose(from_table.distances, searched.distances, atol=1e-3)
    four = live.retrieve(*queries, k=K + 1).distances
    clear = (np.diff(four, axis=1) > 1e-3).all(axis=1)  # of equally near chunks either may be found
    assert clear.sum() > len(clear) / 3
    np.testing.assert_array_equal(from_table.ids[clear], searched.ids[clear])
    np.testing.assert_array_equal(from_table.tokens[clear], searched.tokens[clear])
    np.testing.assert_array_equal(from_table.mask[clear], searched.mask[clear])
    assert stored.source(0) == live.source(0)
    assert stored.chunk_length == live.chunk_length == M
    with pytest.raises(ValueError, match="expected the chunks' numbers"):
        stored.retrieve(*queries, k=K)
    with pytest.raises(ValueError, match=r"num_saved: the table holds 8 neighbors a chunk, this run asks for 9;"):
        stored.retrieve(*queries, k=9, chunks=np.arange(len(chunks)))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_samples_have_no_neighbors_from_any_of_their_documents(
    prepared: PreparedRetrieval, tokens: PreparedTokens, split: str
) -> None:
    stored = of_split(prepared, tokens, split)
    store, database = TokenStore(tokens.stores[split]["notes"]), prepared.database()
    document_of = [i for i in range(len(store)) for _ in store[i]]
    offset = database.offset_of(store)
    assert (offset is not None) == (split == "train")
    length = 6
    first = np.arange(0, len(stored.table) - length, 3)
    ids, texts, mask = stored.samples(first, length, K)
    assert ids.shape == (len(first), length, K)
    dropped = 0
    for sample, start in enumerate(first.tolist()):
        inside = {document_of[p] for p in range(start * M, min((start + length) * M + 1, len(document_of)))}
        for chunk in range(length):
            saved = [id for id in stored.table[start + chunk].tolist() if id >= 0]
            kept = [id for id in saved if offset is None or int(database.documents(id)) - offset not in inside]
            dropped += len(kept) < len(saved)
            expected = (kept + [-1] * K)[:K]
            assert ids[sample, chunk].tolist() == expected
    assert (dropped > 0) == (split == "train")
    expected_tokens, expected_mask = database.neighbor_tokens(ids)
    np.testing.assert_array_equal(texts, expected_tokens)
    np.testing.assert_array_equal(mask, expected_mask)


def test_a_dictionary_of_neighbors() -> None:
    retriever = DictionaryRetriever({(1, 2, 3): [[4, 5], [6]], (7, 8): [[9, 9, 9, 9, 9, 9]]}, chunk_length=3)
    found = retriever.retrieve(np.array([[1, 2, 3], [7, 8, 0], [5, 5, 5]]), np.array([3, 2, 3]), 2)
    assert found.ids.tolist() == [[0, 1], [2, -1], [-1, -1]]
    assert found.tokens[0].tolist() == [[4, 5, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0]]
    assert found.mask.sum(axis=-1).tolist() == [[2, 1], [6, 0], [0, 0]]
    assert found.distances.tolist() == [[0, 1], [0, np.inf], [np.inf, np.inf]]
    assert retriever.source(2) == "dictionary, neighbor 2"


def test_many_threads_get_what_one_gets(live: LiveRetriever) -> None:
    tokens, lengths = live.database.tokens(np.arange(len(live.database)))
    parts = np.array_split(np.arange(len(tokens)), 16)
    expected = [live.retrieve(tokens[part], lengths[part], K) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: live.retrieve(tokens[part], lengths[part], K), parts))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_it_opens_in_a_moment_from_the_prepared_folder_wherever_that_is(live: LiveRetriever, tmp_path: Path) -> None:
    expected = live.retrieve_text(["copper violin"], K)
    shutil.move(tmp_path / "prepared", tmp_path / "moved")
    start = time.perf_counter()
    moved = LiveRetriever(tmp_path / "moved")
    assert time.perf_counter() - start < 1
    np.testing.assert_array_equal(moved.retrieve_text(["copper violin"], K).ids, expected.ids)


def test_the_index_in_a_folder_is_found_or_named(
    prepared: PreparedRetrieval, tokens: PreparedTokens, tmp_path: Path
) -> None:
    assert find_index(tmp_path / "prepared") == prepared.index_folder
    prepare_retrieval(RetrievalConfig(M), tokens, tmp_path / "prepared")
    with pytest.raises(ValueError, match="holds several indexes, name one of them"):
        LiveRetriever(tmp_path / "prepared")
    with pytest.raises(FileNotFoundError, match="expected an index folder"):
        LiveRetriever(tmp_path)


def test_an_embedder_or_a_database_other_than_the_indexs_is_refused(prepared: PreparedRetrieval) -> None:
    path = prepared.index_folder / "retriever.json"
    parts = read_json(path)
    for name, wrong, field in (("embedder_fingerprint", "0" * 64, "embedder"), ("chunks", 3, "chunks")):
        write_json(path, parts | {name: wrong})
        with pytest.raises(ValueError, match=f"{field}: the index was made with .* there is .* now; make it again"):
            LiveRetriever(prepared.index_folder)
