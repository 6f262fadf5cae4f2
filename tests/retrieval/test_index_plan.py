"""The choice of an index and its estimate."""

from __future__ import annotations

import pytest

from retrolit.retrieval import IndexConfig, choose_index


@pytest.mark.parametrize(
    ("vectors", "factory"),
    [
        (1, "Flat"),
        (65_536, "Flat"),
        (65_537, "IVF512,SQ8"),
        (1_000_000, "IVF2048,SQ8"),
        (10_000_000, "IVF8192,SQ8"),
        (40_000_000, "IVF16384,SQ8"),
        (100_000_000, "OPQ64_256,IVF16384,PQ64"),
        (400_000_000, "OPQ32_128,IVF32768_HNSW32,PQ32"),
    ],
)
def test_the_index_grows_with_the_vectors(vectors: int, factory: str) -> None:
    plan = choose_index(vectors, 384)
    assert plan.factory == factory
    assert plan.bytes <= 1.1 * 16 * 2**30
    assert plan.training_vectors == (0 if factory == "Flat" else min(vectors, max(65_536, 32 * plan.clusters)))


def test_the_memory_bounds_what_is_chosen() -> None:
    assert choose_index(1_000_000, 384, IndexConfig(memory_gib=0.1)).factory == "OPQ64_256,IVF2048,PQ64"
    assert choose_index(1_000_000, 384, IndexConfig(memory_gib=0.05)).bytes < 0.06 * 2**30


def test_the_papers_index_is_estimated() -> None:
    plan = choose_index(
        19_000_000_000, 1024, IndexConfig("OPQ64_128,IVF4194304_HNSW32,PQ64", training_vectors=400_000_000)
    )
    assert plan.clusters == 4_194_304
    assert plan.training_vectors == 400_000_000
    assert 1.36e12 < plan.bytes < 1.4e12  # 64 bytes of code and 8 of id for each of 19 billion


def test_the_estimate_says_bytes_seconds_recall_and_why() -> None:
    line = str(choose_index(1_000_000, 384))
    for part in ("IVF2048,SQ8", "MiB", "s to build", "recall@2 about 0.9", "1,000,000 vectors"):
        assert part in line


def test_too_few_vectors_for_what_was_asked_are_compared_one_by_one() -> None:
    plan = choose_index(812, 384, IndexConfig("IVF4096,SQ8"))
    assert plan.factory == "Flat"
    assert "IVF4096,SQ8 needs at least 4,096 vectors to train, there are 812" in plan.reason
    assert choose_index(5_000, 384, IndexConfig("OPQ16_64,IVF16,PQ16")).factory == "Flat"
    assert choose_index(9_984, 384, IndexConfig("OPQ16_64,IVF16,PQ16")).factory == "OPQ16_64,IVF16,PQ16"


@pytest.mark.parametrize("factory", ["HNSW32", "IVF4096", "IVF64,PQ16x4fs", "LSH", "PCA8,Flat", "Flat,IVF3", ""])
def test_factory_strings_that_cannot_be_built_in_blocks_are_refused(factory: str) -> None:
    with pytest.raises(ValueError, match=r"IndexConfig\.factory: expected"):
        IndexConfig(factory)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_recall", 0.0),
        ("target_recall", 1.5),
        ("nprobe", 0),
        ("max_nprobe", 0),
        ("ef_search", 0),
        ("training_vectors", 0),
        ("memory_gib", 0.0),
        ("card_queries", -1),
    ],
)
def test_impossible_values_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"IndexConfig.{field}: expected"):
        IndexConfig(**{field: value})
