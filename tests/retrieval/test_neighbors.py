"""Neighbor tables, against searching and filtering every chunk by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import (
    ChunkDatabase,
    Index,
    IndexConfig,
    LexicalEmbedder,
    NeighborConfig,
    NeighborTable,
    build_index,
    build_neighbors,
    neighbors,
)
from retrolit.retrieval.neighbors import keep_first
from retrolit.retrieval.stream_chunks import StreamChunks
from retrolit.storage.blocks import Share
from retrolit.tokens import ByteTokenizer, TokenStore

M = 16


class Corpus:
    """A store, a database of these stores, its embedder and its exact index."""

    def __init__(self, folder: Path, *stores: TokenStore) -> None:
        self.stores, self.folder = stores, folder
        self.database = ChunkDatabase(stores, M)
        self.embedder = LexicalEmbedder.fit(self.database, ByteTokenizer(), dimension=64)

    def index(self, rows: Callable, config: IndexConfig) -> Index:
        vectors = rows(self.embedder.embed(*self.database.tokens(np.arange(len(self.database)))))
        index = build_index(vectors, config, self.folder / f"index-{config.factory}")
        assert index is not None
        return index


@pytest.fixture
def corpus(make_store, texts: list[str], tmp_path: Path) -> Corpus:
    return Corpus(tmp_path, make_store("one", texts[:25]), make_store("two", texts[25:]))


def table_of(
    corpus: Corpus, index: Index, store: TokenStore, config: NeighborConfig, name: str = "table"
) -> NeighborTable:
    table = build_neighbors(store, corpus.database, index, corpus.embedder, config=config, folder=corpus.folder / name)
    assert table is not None
    return table


def by_hand(corpus: Corpus, index: Index, store: TokenStore, config: NeighborConfig) -> tuple[np.ndarray, np.ndarray]:
    """For every stream chunk: the ids found for it, without those of documents it overlaps, in their order, and their
    distances."""
    offset = corpus.database.offset_of(store)
    chunks = StreamChunks(store, M)
    document_of = [i for i in range(len(store)) for _ in store[i]]
    rows = []
    for chunk in range(len(chunks)):
        query = corpus.embedder.embed(*chunks.tokens(chunk, chunk + 1))
        distances, ids = index.search(query, config.num_searched)
        found = list(zip(ids[0].tolist(), distances[0].tolist(), strict=True)) if query.any() else []
        own = {document_of[p] for p in range(chunk * M, min(chunk * M + M, len(document_of)))}
        kept = [
            (id, distance)
            for id, distance in found
            if id >= 0 and (offset is None or int(corpus.database.documents(id)) - offset not in own)
        ][: config.num_saved]
        rows.append(kept + [(-1, np.inf)] * (config.num_saved - len(kept)))
    ids, distances = np.moveaxis(np.array(rows), 2, 0)
    return ids.astype(np.int64), distances


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
@pytest.mark.parametrize(("saved", "searched"), [(2, 2), (5, 40), (20, 200)])
def test_the_table_is_that_of_a_loop(
    corpus: Corpus, rows, same_but_for_equals, factory: str, saved: int, searched: int
) -> None:
    """IVF with one cluster visited returns -1 for what it does not find."""
    index = corpus.index(rows, IndexConfig(factory, nprobe=1))
    config = NeighborConfig(saved, searched, exclude_copies=False)
    for number, store in enumerate(corpus.stores):
        table = table_of(corpus, index, store, config, f"table-{number}")
        ids, distances = by_hand(corpus, index, store, config)
        same_but_for_equals(table[np.arange(len(table))], ids, distances)
        assert np.isclose(table.distances(np.arange(len(table))), distances, atol=1e-3).mean() > 0.98
        assert len(table) == -(-store.num_tokens // M)
        counts = table.manifest.sizes
        assert counts["kept"] == (table[np.arange(len(table))] >= 0).sum()
        assert counts["chunks_with_too_few"] == (table[np.arange(len(table))] < 0).any(axis=1).sum()
        assert counts["own"] > 0


def test_a_store_outside_the_database_keeps_all_that_is_found(
    corpus: Corpus, rows, make_store, same_but_for_equals
) -> None:
    outside = make_store("outside", ["copper violin by the harbor", "lantern and meadow"])
    index = corpus.index(rows, IndexConfig("Flat"))
    config = NeighborConfig(4, 8)
    table = table_of(corpus, index, outside, config)
    same_but_for_equals(table[np.arange(len(table))], *by_hand(corpus, index, outside, config))
    assert table.manifest.sizes["own"] == table.manifest.sizes["copies"] == 0


def test_the_samples_own_continuation_is_never_a_neighbor(make_store, rows, tmp_path: Path) -> None:
    """Every chunk of a document is the same text, so that its own continuation is as near as can be."""
    store = make_store("store", [f"{word:15} " * 20 for word in ("copper", "violin", "harbor")] * 2)
    corpus = Corpus(tmp_path, store)
    index = corpus.index(rows, IndexConfig("Flat"))
    chunks = StreamChunks(store, M)
    with_copies = table_of(corpus, index, store, NeighborConfig(4, 200, exclude_copies=False), "with-copies")
    first, last = chunks.documents(0, len(chunks))
    for table in (with_copies, table_of(corpus, index, store, NeighborConfig(4, 200), "without-copies")):
        ids = table[np.arange(len(table))]
        documents = corpus.database.documents(np.maximum(ids, 0))
        own = (documents >= first[:, None]) & (documents <= last[:, None])
        assert not (own & (ids >= 0)).any()
        assert table.manifest.sizes["own"] >= 19 * 6
    # The other copy of the document was the nearest; with exclude_copies it is gone as well.
    inside = (first == last) & (chunks.tokens(0, len(chunks))[1] == M)
    nearest = corpus.database.documents(with_copies[np.arange(len(chunks))][inside, 0])
    assert (np.abs(nearest - first[inside]) == 3).all()
    assert table.manifest.sizes["copies"] >= 19 * 6
    kept = corpus.database.documents(np.maximum(ids, 0))[inside]
    assert not ((kept % 3 == first[inside][:, None] % 3) & (ids[inside] >= 0)).any()


def test_near_duplicates_are_dropped_and_counted(make_store, rows, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base = "".join(generator.choice(list("abcdefgh "), 200))
    changed = base[:90] + "Z" + base[91:]  # all but the n-grams over one letter are the same
    others = ["".join(generator.choice(list("abcdefgh "), 200)) for _ in range(4)]
    store = make_store("store", [base, changed, *others])
    corpus = Corpus(tmp_path, store)
    index = corpus.index(rows, IndexConfig("Flat"))
    config = NeighborConfig(3, 60)
    plain = table_of(corpus, index, store, config, "plain")
    filtered = table_of(
        corpus, index, store, replace(config, near_duplicate_share=0.5, near_duplicate_ngram=6), "filtered"
    )
    assert plain.manifest.sizes["copies"] == 0  # not exact copies
    assert plain.manifest.sizes["near_duplicates"] == 0
    assert filtered.manifest.sizes["near_duplicates"] > 0
    chunks = StreamChunks(store, M)
    pairs = 0
    for chunk in range(len(chunks)):
        texts = [
            bytes(tokens[0, : length[0]].astype(np.uint8))
            for tokens, length in (chunks.tokens(c, c + 1) for c in (chunk, min(chunk + 1, len(chunks) - 1)))
        ]

        def is_near(id: int, texts: list[bytes] = texts) -> bool:
            tokens, mask = corpus.database.neighbor_tokens([id])
            neighbor = bytes(tokens[mask].astype(np.uint8))
            for text in texts:
                grams = [text[i : i + 6] for i in range(len(text) - 5)]
                if grams and sum(gram in neighbor for gram in grams) / len(grams) > 0.5:
                    return True
            return False

        assert not any(is_near(id) for id in filtered[chunk] if id >= 0)
        pairs += sum(is_near(id) for id in plain[chunk] if id >= 0)
        # What is left keeps its order.
        kept = [id for id in plain[chunk].tolist() if id >= 0 and not is_near(id)]
        assert filtered[chunk].tolist()[: len(kept)] == kept
    assert pairs > 0


def test_kept_neighbors_stay_in_order_for_every_number() -> None:
    generator = np.random.default_rng(0)
    for k in range(4, 257):
        width = k + int(generator.integers(0, 20))
        drop = generator.random((30, width)) < generator.random((30, 1))
        [ids] = keep_first(drop, k, np.arange(width)[None].repeat(30, axis=0))
        for row, dropped in zip(ids.tolist(), drop, strict=True):
            kept = np.flatnonzero(~dropped)[:k].tolist()
            assert row[: len(kept)] == kept


def test_a_chunk_in_which_there_is_nothing_has_no_neighbors(make_store, rows, tmp_path: Path) -> None:
    store = make_store("store", ["copper violin " * 4, " " * 40, "", "", "copper violin harbor " * 3])
    corpus = Corpus(tmp_path, store)
    table = table_of(corpus, corpus.index(rows, IndexConfig("Flat")), store, NeighborConfig(2, 5))
    tokens, lengths = StreamChunks(store, M).tokens(0, len(table))
    empty = ~corpus.embedder.embed(tokens, lengths).any(axis=1)
    assert empty.any()
    assert (table[np.flatnonzero(empty)] == -1).all()
    assert np.isinf(table.distances(np.flatnonzero(empty))).all()


def test_interrupted_divided_or_damaged_the_bytes_are_the_same(
    corpus: Corpus, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK_CHUNKS", 32)
    monkeypatch.setattr(neighbors, "FILTER_CHUNKS", 8)
    index, store, config = corpus.index(rows, IndexConfig("Flat")), corpus.stores[0], NeighborConfig(4, 30)

    def build(name: str, **options) -> dict[str, bytes]:
        build_neighbors(
            store, corpus.database, index, corpus.embedder, config=config, folder=corpus.folder / name, **options
        )
        folder = corpus.folder / name
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}

    whole = build("whole")
    assert set(whole) == {"ids.bin", "distances.bin", "manifest.json"}
    search = neighbors.search_many
    calls = iter(range(2))

    def failing(index, queries, k):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return search(index, queries, k)

    monkeypatch.setattr(neighbors, "search_many", failing)
    with pytest.raises(KeyboardInterrupt):
        build("killed")
    monkeypatch.setattr(neighbors, "search_many", search)
    blocks = sorted((corpus.folder / ".killed-32.work").iterdir())
    assert len(blocks) == 2
    blocks[0].write_bytes(blocks[0].read_bytes()[:-1])
    assert build("killed") == whole
    assert not (corpus.folder / ".killed-32.work").exists()
    assert build("two", share=Share(1, 2)) == {}
    assert build("two", share=Share(0, 2)) == whole


def test_a_table_is_refused_for_another_store_database_or_chunk_length(corpus: Corpus, rows) -> None:
    table = table_of(corpus, corpus.index(rows, IndexConfig("Flat")), corpus.stores[0], NeighborConfig(2, 5))
    table.check(corpus.stores[0], corpus.database)
    with pytest.raises(
        ValueError, match=r"chunk_length: the neighbors were made with 16, this run asks for 32; .*prepare"
    ):
        table.check(corpus.stores[0], ChunkDatabase(corpus.stores, 32))
    with pytest.raises(ValueError, match="store: the neighbors were made with"):
        table.check(corpus.stores[1], corpus.database)
    with pytest.raises(ValueError, match="database: the neighbors were made with"):
        table.check(corpus.stores[0], ChunkDatabase(corpus.stores[:1], M))


def test_opening_a_table_writes_nothing_and_notices_another_size(corpus: Corpus, rows) -> None:
    table = table_of(corpus, corpus.index(rows, IndexConfig("Flat")), corpus.stores[0], NeighborConfig(2, 5))
    content = (table.folder / "ids.bin").read_bytes()
    with pytest.raises(IndexError):
        NeighborTable(table.folder)[len(table)]
    assert (table.folder / "ids.bin").read_bytes() == content
    (table.folder / "ids.bin").write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"ids\.bin: expected"):
        NeighborTable(table.folder)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_saved": 0}, "num_saved"),
        ({"num_saved": 21, "num_searched": 20}, "num_saved"),
        ({"near_duplicate_share": 1.0}, "near_duplicate_share"),
        ({"near_duplicate_ngram": 0}, "near_duplicate_ngram"),
    ],
)
def test_impossible_values_are_refused_by_name(settings: dict, field: str) -> None:
    with pytest.raises(ValueError, match=rf"NeighborConfig\.{field}: expected"):
        NeighborConfig(**settings)
