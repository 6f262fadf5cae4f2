"""Very many queries at once find what each finds alone, in whatever order, by however many threads lists are read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from retrolit.retrieval import Index, IndexConfig, build_index, index_build, search_many
from retrolit.retrieval import index as index_file

FACTORIES = [
    *("Flat", "SQ8", "PQ8", "OPQ8_16,PQ8", "RaBitQ"),
    *("IVF32,Flat", "IVF32,SQ8", "IVF32,PQ8", "OPQ8_16,IVF32,PQ8", "IVF32_HNSW8,SQ8", "IVF32,RaBitQ"),
]


@pytest.fixture(autouse=True)
def where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, and no number of queries that is too small."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(search_many, "FEWEST_VISITS", 0)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Torch has so many; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.fixture
def make_index(clustered, tmp_path: Path) -> Callable[[str], Index]:
    """An index of the clustered vectors, in two shards."""

    def make(factory: str) -> Index:
        config = IndexConfig(factory, nprobe=6, card_queries=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_build, "BLOCK", 2000)
            patch.setattr(index_build, "SHARD_BYTES", 1)
            index = build_index(clustered, config, tmp_path / factory)
        assert index is not None
        assert index.manifest.sizes["shards"] == 2
        return index

    return make


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is worked on at a time is small, so that there is much of it."""
    monkeypatch.setattr(search_many, "CPU_PRODUCTS", 4096)
    monkeypatch.setattr(search_many, "ROWS", 100)
    monkeypatch.setattr(search_many, "MOST_VISITS", 2000)
    monkeypatch.setattr(index_file, "PIECE", 500)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("k", [1, 30, 500])
def test_many_queries_find_what_each_finds_alone(
    make_index, clustered, small_parts: None, factory: str, k: int
) -> None:
    index = make_index(factory)
    queries = clustered.array[:700]
    expected, same = index.search(queries, k)
    distances, ids = search_many.search_many(index, queries, k)
    assert distances.dtype == expected.dtype
    assert ids.dtype == same.dtype
    np.testing.assert_allclose(distances, expected, atol=2e-5)
    np.testing.assert_array_equal(ids < 0, np.isinf(distances))
    last = np.where(np.isinf(expected[:, -1:]), np.inf, expected[:, -1:] - 2e-5)
    for found, there, near in zip(ids, same, expected < last, strict=True):
        assert set(there[near]) <= set(found), "what is clearly nearer than the k-th is found"
    assert (ids == same).mean() > 0.99, "but for equals"


def test_threads_and_parts_make_no_difference(
    make_index, clustered, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    index = make_index("IVF32,SQ8")
    monkeypatch.setattr(search_many, "ROWS", 300)
    whole = search_many.search_many(index, clustered.array[:1000], 20)
    torch.set_num_threads(1)
    again = search_many.search_many(index, clustered.array[:1000], 20)
    torch.set_num_threads(threads)
    for values, expected in zip(whole, again, strict=True):
        np.testing.assert_array_equal(values, expected)


def test_among_equals_the_lower_ids_are_found_first(rows, tmp_path: Path, small_parts: None, threads: int) -> None:
    """More copies than a row holds, so that rows are cut within them."""
    generator = np.random.default_rng(0)
    vectors = rows(generator.standard_normal((4, 8))[generator.integers(0, 4, 2000)])
    index = build_index(vectors, IndexConfig("Flat"), tmp_path / "index")
    assert index is not None
    distances, ids = search_many.search_many(index, vectors.array[:50], 7)
    for query, found in zip(vectors.array[:50], ids, strict=True):
        assert found.tolist() == np.flatnonzero((vectors.array == query).all(axis=1))[:7].tolist()
    np.testing.assert_allclose(distances, 0, atol=2e-5)


def test_a_query_of_nothing_is_as_far_from_everything(make_index, clustered) -> None:
    index = make_index("IVF32,SQ8")
    queries = np.concatenate([clustered.array[:3], np.zeros((1, 16), np.float32)])
    distances, ids = search_many.search_many(index, queries, 5)
    np.testing.assert_array_equal(distances[3], 1)
    assert (ids >= 0).all()
    assert ids[:3, 0].tolist() == [0, 1, 2]


def test_queries_of_another_width_are_refused(make_index) -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 16\) as the index .* has, got \(3, 8\)"):
        search_many.search_many(make_index("Flat"), np.zeros((3, 8), np.float32), 2)


def test_a_full_gpu_leaves_the_work_to_the_cpu(
    make_index, clustered, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_index("Flat")
    expected = search_many.search_many(index, clustered.array[:50], 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on = search_many._search

    def full(index, queries, visited, k, device):
        if device.type == "cuda":
            raise torch.OutOfMemoryError("full")
        return on(index, queries, visited, k, device)

    monkeypatch.setattr(search_many, "_search", full)
    with caplog.at_level(logging.WARNING):
        found = search_many.search_many(index, clustered.array[:50], 5)
    assert "the GPU's memory is full; 50 queries are searched on the CPU" in caplog.text
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(("cores", "queries", "alone"), [(8, 200, False), (16, 200, True), (8, 150, True)])
def test_faiss_searches_what_it_searches_sooner(
    make_index, clustered, monkeypatch: pytest.MonkeyPatch, cores: int, queries: int, alone: bool
) -> None:
    """6 of 32 clusters are visited: 32 queries a cluster are 171."""
    index, searched = make_index("IVF32,SQ8"), []
    monkeypatch.setattr(search_many, "FEWEST_VISITS", 32)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    search = Index.search
    monkeypatch.setattr(Index, "search", lambda self, q, k: searched.append(len(q)) or search(self, q, k))
    search_many.search_many(index, clustered.array[:queries], 5)
    assert searched == ([queries] if alone else [])


@pytest.mark.gpu
@pytest.mark.parametrize("factory", ["Flat", "SQ8", "OPQ8_16,PQ8"])
def test_a_gpu_finds_what_the_cpu_finds(make_index, clustered, factory: str) -> None:
    index = make_index(factory)
    distances, ids = index.search(clustered.array, 30)
    again, found = search_many.search_many(index, clustered.array, 30)
    np.testing.assert_allclose(again, distances, atol=2e-5)
    assert (found == ids).mean() > 0.99  # but for equals
