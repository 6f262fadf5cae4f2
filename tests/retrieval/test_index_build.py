"""Building an index: the same bytes however the work was interrupted or divided."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import Index, IndexConfig, build_index, index_build
from retrolit.retrieval.card import Card
from retrolit.retrieval.vectors import exact_neighbors
from retrolit.storage.blocks import EVERYTHING, Share

FACTORIES = ["Flat", "SQ8", "IVF32,SQ8", "IVF32_HNSW8,Flat", "IVF32,RaBitQ4"]


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the card, which holds a speed."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "card.json"}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 vectors in six blocks, and two blocks a shard."""
    monkeypatch.setattr(index_build, "BLOCK", 500)
    monkeypatch.setattr(index_build, "SHARD_BYTES", 8_000)


@pytest.mark.parametrize("factory", FACTORIES)
def test_searching_all_clusters_finds_what_exact_search_finds(clustered, tmp_path: Path, factory: str) -> None:
    index = build_index(clustered, IndexConfig(factory, nprobe=32), tmp_path / "index")
    assert index is not None
    distances, ids = index.search(clustered.array[:50], 5)
    similarity, true = exact_neighbors(clustered.array[:50], clustered, 5)
    if factory in ("Flat", "IVF32_HNSW8,Flat"):
        np.testing.assert_array_equal(ids, true)
        np.testing.assert_allclose(distances, 1 - similarity, atol=2e-5)
    else:  # the codes are rounded
        found = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(ids.tolist(), true.tolist(), strict=True)])
        assert found > (0.6 if "RaBitQ" in factory else 0.8)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.usefixtures("small_blocks")
def test_shards_find_the_same_as_one_index(
    clustered, tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig(factory, nprobe=8)
    several = build_index(clustered, config, tmp_path / "several")
    monkeypatch.setattr(index_build, "SHARD_BYTES", 2**30)
    one = build_index(clustered, config, tmp_path / "one")
    assert one is not None
    assert several is not None
    assert one.manifest.sizes["shards"] == 1
    assert several.manifest.sizes["shards"] > 1
    assert len(several) == len(one) == 3000
    for found, expected in zip(
        several.search(clustered.array[:200], 10), one.search(clustered.array[:200], 10), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("factory", ["Flat", "IVF32,SQ8", "IVF32_HNSW8,SQ8"])
@pytest.mark.usefixtures("small_blocks")
def test_interrupted_anywhere_the_bytes_are_the_same(
    clustered, tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig(factory)
    build_index(clustered, config, tmp_path / "whole" / "index")
    read = type(clustered).rows

    def failing(after: int):
        calls = iter(range(after))

        def rows(self, ids):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return read(self, ids)

        return rows

    for after in (0, 1, 3, 6):
        monkeypatch.setattr(type(clustered), "rows", failing(after))
        with pytest.raises(KeyboardInterrupt):
            build_index(clustered, config, tmp_path / "killed" / "index")
        assert not (tmp_path / "killed" / "index").exists()
    monkeypatch.setattr(type(clustered), "rows", read)
    blocks = sorted((tmp_path / "killed" / ".index.work" / "codes").iterdir())
    assert len(blocks) >= 3
    blocks[0].write_bytes(blocks[0].read_bytes()[:-5])  # a block the disk lost the end of
    damaged = bytearray(blocks[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1  # and one with a flipped bit
    blocks[1].write_bytes(damaged)
    build_index(clustered, config, tmp_path / "killed" / "index")
    assert contents(tmp_path / "killed" / "index") == contents(tmp_path / "whole" / "index")
    assert not (tmp_path / "killed" / ".index.work").exists()


@pytest.mark.usefixtures("small_blocks")
def test_two_machines_give_the_bytes_of_one(clustered, tmp_path: Path) -> None:
    config = IndexConfig("IVF32,SQ8")
    build_index(clustered, config, tmp_path / "one")
    assert build_index(clustered, config, tmp_path / "two", share=Share(1, 2)) is None
    assert len(list((tmp_path / ".two.work" / "codes").iterdir())) == 3
    assert build_index(clustered, config, tmp_path / "two", share=Share(0, 2)) is not None
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.usefixtures("small_blocks")
def test_a_machine_that_finishes_later_finds_the_index_and_leaves_nothing(
    clustered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the second machine reads the vectors of its first block, the first one does everything."""
    config, read, calls = IndexConfig("IVF32,SQ8"), type(clustered).rows, []

    def rows(self, ids):
        calls.append(len(ids))
        if len(calls) == 2:  # the first call is for the training sample
            monkeypatch.setattr(type(clustered), "rows", read)
            assert build_index(clustered, config, tmp_path / "index", share=Share(0, 2)) is not None
        return read(self, ids)

    monkeypatch.setattr(type(clustered), "rows", rows)
    assert build_index(clustered, config, tmp_path / "index", share=Share(1, 2)) is None
    assert calls == [len(clustered), 500]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".index.lock", "index"]


@pytest.mark.parametrize("factory", ["Flat", "IVF32,SQ8", "IVF32_HNSW8,SQ8"])
@pytest.mark.usefixtures("small_blocks")
def test_what_is_added_later_is_all_that_is_encoded(
    clustered, rows, tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig(factory, nprobe=8, card_queries=0)
    first = build_index(rows(clustered.array[:2_200]), config, tmp_path / "first")
    asked: list[np.ndarray] = []
    read = type(clustered).rows
    monkeypatch.setattr(type(clustered), "rows", lambda self, ids: asked.append(ids) or read(self, ids))
    grown = build_index(clustered, config, tmp_path / "grown", extends=first)
    assert first is not None
    assert grown is not None
    assert np.concatenate(asked).min() == 2_200
    assert len(grown) == 3_000
    for path in (tmp_path / "first").glob("*.faiss"):  # the same files, not copies
        assert path.stat().st_ino == (tmp_path / "grown" / path.name).stat().st_ino
    _, ids = grown.search(clustered.array, 1)
    assert (ids[:, 0] == np.arange(3_000)).mean() > 0.95


def test_a_finished_index_is_only_opened(clustered, tmp_path: Path) -> None:
    build_index(clustered, IndexConfig(), tmp_path / "index")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    build_index(clustered, IndexConfig(), tmp_path / "index")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()} == times


@pytest.mark.parametrize("factory", [None, "IVF16,SQ8", "IVF16_HNSW8,Flat"])
def test_equal_vectors_are_all_found(rows, tmp_path: Path, factory: str | None) -> None:
    same = rows(np.ones((200, 8)))
    index = build_index(same, IndexConfig(factory), tmp_path / "index")
    assert index is not None
    distances, ids = index.search(same.array[:3], 4)
    assert ids.tolist() == [[0, 1, 2, 3]] * 3
    np.testing.assert_allclose(distances, 0, atol=1e-3)


def test_many_copies_of_few_texts_and_empty_chunks(rows, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    few = generator.standard_normal((5, 8))
    copies = rows(np.concatenate([few[generator.integers(0, 5, 300)], np.zeros((20, 8))]))
    index = build_index(copies, IndexConfig("IVF64,SQ8"), tmp_path / "index")
    assert index is not None
    distances, ids = index.search(copies.array[:300], 3)
    np.testing.assert_allclose(distances, 0, atol=1e-2)
    np.testing.assert_allclose(copies.array[ids], copies.array[:300, None].repeat(3, axis=1), atol=1e-5)


def test_one_vector_is_an_index_and_none_is_not(rows, tmp_path: Path) -> None:
    index = build_index(rows(np.ones((1, 8))), IndexConfig("IVF4096,SQ8"), tmp_path / "one")
    assert index is not None
    assert index.manifest.settings["factory"] == "Flat"
    assert "at least 4,096 vectors" in index.manifest.settings["reason"]
    distances, ids = index.search(np.ones((1, 8), np.float32) / 8**0.5, 3)
    assert ids.tolist() == [[0, -1, -1]]
    assert distances[0, 1:].tolist() == [np.inf, np.inf]
    with pytest.raises(ValueError, match="expected at least one vector, got none"):
        build_index(rows(np.ones((0, 8))), IndexConfig(), tmp_path / "none")


@pytest.mark.usefixtures("small_blocks")
def test_a_full_disk_leaves_finished_blocks_and_the_next_run_goes_on(clustered, tmp_path: Path) -> None:
    """A limit on file sizes makes the system refuse writes as a full disk does."""
    config = IndexConfig("SQ8")
    build_index(clustered, config, tmp_path / "whole" / "index")
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, blocks in ((4_000, 0), (10_000, 6)):  # a block has 8 kB, a shard 16 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, allowed[1]))
        try:
            with pytest.raises(OSError, match="index"):
                build_index(clustered, config, tmp_path / "full" / "index")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        assert len(list((tmp_path / "full" / ".index.work").glob("codes/*.block"))) == blocks
        assert not list((tmp_path / "full").rglob("*.partial"))
    build_index(clustered, config, tmp_path / "full" / "index", share=EVERYTHING)
    assert contents(tmp_path / "full" / "index") == contents(tmp_path / "whole" / "index")


def test_the_estimate_of_bytes_is_that_of_the_files(clustered, tmp_path: Path) -> None:
    for factory in FACTORIES:
        build_index(clustered, IndexConfig(factory, card_queries=0), tmp_path / factory)
        size = sum(path.stat().st_size for path in (tmp_path / factory).glob("shard-*"))
        assert size == pytest.approx(index_build.choose_index(3000, 16, IndexConfig(factory)).bytes, rel=0.1)
        assert len(Index(tmp_path / factory)) == 3000


def test_compressed_codes_find_some_of_what_is_near(rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotations = index_build.rotations_of

    def in_a_moment(index) -> list:
        found = rotations(index)
        for rotation in found:
            rotation.niter = rotation.niter_pq_0 = rotation.niter_pq = 2
        return found

    monkeypatch.setattr(index_build, "rotations_of", in_a_moment)
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((10_000, 3)) @ generator.standard_normal((3, 8))  # near a space of 3 dimensions
    vectors = rows(flat + 0.05 * generator.standard_normal((10_000, 8)))
    index = build_index(vectors, IndexConfig("OPQ2_4,IVF16_HNSW8,PQ2", nprobe=16), tmp_path / "index")
    assert index is not None
    assert index.manifest.settings["factory"] == "OPQ2_4,IVF16_HNSW8,PQ2"
    assert Card.read(tmp_path / "index").recall["10"] > 0.1  # by chance 0.001
