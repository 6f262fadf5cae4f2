"""Searching a finished index."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import Index, IndexConfig, build_index


@pytest.fixture
def index(clustered, tmp_path: Path) -> Index:
    built = build_index(clustered, IndexConfig("IVF32,SQ8", nprobe=4, card_queries=0), tmp_path / "index")
    assert built is not None
    return built


def test_distances_rise_and_missing_neighbors_are_marked(index: Index, clustered) -> None:
    index.set_search(1, None)  # one list of about a hundred vectors: too few for 400
    distances, ids = index.search(clustered.array[:50], 400)
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    assert (ids[:, -1] == -1).all()
    np.testing.assert_array_equal(np.isinf(distances), ids == -1)
    first = [next(iter(np.flatnonzero(row == -1))) for row in ids]
    assert all((row[i:] == -1).all() for row, i in zip(ids, first, strict=True))


def test_the_lower_id_comes_first_among_equals(rows, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = rows(generator.standard_normal((4, 8))[generator.integers(0, 4, 400)])
    index = build_index(vectors, IndexConfig("IVF4,Flat", nprobe=4), tmp_path / "index")
    assert index is not None
    distances, ids = index.search(vectors.array[:40], 60)
    rises = np.diff(ids, axis=1) > 0
    assert rises[np.diff(distances, axis=1) == 0].all()
    assert (np.diff(distances, axis=1) == 0).any()


def test_more_clusters_visited_find_nearer_neighbors(index: Index, rows) -> None:
    queries = rows(np.random.default_rng(7).standard_normal((100, 16))).array
    found = []
    for nprobe in (1, 4, 32):
        index.set_search(nprobe, None)
        found.append(index.search(queries, 10)[0].sum())
    assert found[0] > found[1] > found[2]


def test_many_threads_find_what_one_finds(index: Index, clustered) -> None:
    parts = np.array_split(clustered.array, 60)
    expected = [index.search(part, 5) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for (distances, ids), (same_distances, same_ids) in zip(
            pool.map(lambda part: index.search(part, 5), parts), expected, strict=True
        ):
            np.testing.assert_array_equal(ids, same_ids)
            np.testing.assert_array_equal(distances, same_distances)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_search_after_its_parent_did(index: Index, clustered) -> None:
    expected = index.search(clustered.array, 5)[1]  # OpenMP's threads have started here
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(index.search(clustered.array, 5)[1]), daemon=True)
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=30), expected)
    child.join(10)


def test_opening_is_quick_and_reads_next_to_nothing(rows, tmp_path: Path) -> None:
    vectors = rows(np.random.default_rng(0).standard_normal((50_000, 64)))
    build_index(vectors, IndexConfig("IVF64,Flat", card_queries=0), tmp_path / "index")
    start = time.perf_counter()
    index = Index(tmp_path / "index")
    assert time.perf_counter() - start < 1
    assert len(index) == 50_000
    assert index.dimension == 64


def test_queries_of_another_width_are_refused(index: Index) -> None:
    with pytest.raises(ValueError, match=r"queries: expected \(n, 16\).*got \(2, 8\)"):
        index.search(np.zeros((2, 8), np.float32), 1)


def test_a_damaged_or_missing_index_is_refused(index: Index, tmp_path: Path) -> None:
    shard = index.folder / "shard-0000.faiss"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard-0000\.faiss: expected"):
        Index(index.folder)
    with pytest.raises(FileNotFoundError, match="expected a folder of index"):
        Index(tmp_path)


def test_without_faiss_the_error_says_how_to_install_it(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "retrolit\[cpu\]"'):
        Index(index.folder)
