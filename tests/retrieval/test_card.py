"""The index card: recall against exact search, and the choice of nprobe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import IndexConfig, build_index
from retrolit.retrieval.card import Card, find_truth, recall
from retrolit.retrieval.vectors import exact_neighbors


def test_exact_search_recalls_everything(clustered, tmp_path: Path) -> None:
    build_index(clustered, IndexConfig(card_queries=100), tmp_path / "index")
    card = Card.read(tmp_path / "index")
    assert card.recall == {"1": 1.0, "2": 1.0, "10": 1.0}
    assert card.self_recall == 1.0
    assert (card.queries, card.held_out, card.vectors) == (100, False, 3000)
    assert card.bytes_per_vector == pytest.approx(64, rel=0.01)


def test_recall_is_the_share_of_true_neighbors_found(clustered, rows, tmp_path: Path) -> None:
    """Held-out queries and vectors without copies, so that counting ids gives the same."""
    queries = rows(np.random.default_rng(5).standard_normal((80, 16))).array
    index = build_index(clustered, IndexConfig("IVF32,Flat", nprobe=2), tmp_path / "index", queries=queries)
    assert index is not None
    _, true = exact_neighbors(queries, clustered, 10)
    _, found = index.search(queries, 10)
    for k, share in Card.read(tmp_path / "index").recall.items():
        expected = [len(set(a[: int(k)]) & set(b[: int(k)])) for a, b in zip(true, found, strict=True)]
        assert share == pytest.approx(np.sum(expected) / (80 * int(k)))
        assert share < 1


def test_copies_do_not_look_like_mistakes_nor_itself_like_a_find(rows, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = rows(np.repeat(generator.standard_normal((100, 8)), 4, axis=0))
    index = build_index(vectors, IndexConfig("IVF4,Flat", nprobe=4), tmp_path / "index")
    assert index is not None
    assert Card.read(tmp_path / "index").recall == {"1": 1.0, "2": 1.0, "10": 1.0}
    alone = rows(np.eye(3))  # nothing else in its only cluster: itself does not count
    index = build_index(alone, IndexConfig("IVF3,Flat", nprobe=1, card_queries=0), tmp_path / "alone")
    assert index is not None
    truth = find_truth(alone, None, 3, seed=0)
    assert recall(index, alone, truth, (1,)) == [0.0]


def test_where_there_is_nothing_to_find_nothing_is_missed(rows, tmp_path: Path) -> None:
    build_index(rows(np.eye(1, 16, dtype=np.float32)), IndexConfig(), tmp_path / "index")
    assert set(Card.read(tmp_path / "index").recall.values()) == {1.0}


def test_nprobe_is_the_fewest_clusters_that_reach_the_target(rows, tmp_path: Path) -> None:
    vectors = rows(np.random.default_rng(0).standard_normal((3000, 16)))
    chosen = {}
    for target in (0.3, 0.9):
        config = IndexConfig("IVF128,Flat", target_recall=target, max_nprobe=128, card_queries=300)
        index = build_index(vectors, config, tmp_path / str(target))
        assert index is not None
        card = Card.read(tmp_path / str(target))
        assert card.recall["2"] >= target
        chosen[target] = card.nprobe
        assert index.manifest.settings["search"]["nprobe"] == card.nprobe
    assert chosen[0.3] == 4
    assert 4 < chosen[0.9] < 128


def test_nprobe_stops_where_the_codes_lose_the_rest(rows, tmp_path: Path) -> None:
    vectors = rows(np.random.default_rng(0).standard_normal((3000, 16)))
    build_index(vectors, IndexConfig("IVF64,RaBitQ", target_recall=0.9, max_nprobe=64), tmp_path / "index")
    card = Card.read(tmp_path / "index")
    assert card.recall["2"] < 0.5
    assert card.nprobe is not None
    assert card.nprobe < 64


def test_nprobe_stays_within_its_maximum_and_the_card_says_what_that_costs(rows, tmp_path: Path) -> None:
    vectors = rows(np.random.default_rng(0).standard_normal((3000, 16)))
    for most in (1, 6):
        build_index(vectors, IndexConfig("IVF128,Flat", max_nprobe=most), tmp_path / str(most))
        card = Card.read(tmp_path / str(most))
        assert card.nprobe == most
        assert card.recall["2"] < 0.9
        assert f"recall@2 is below 0.9; index.max_nprobe: {4 * most} finds more, and takes up to four" in str(card)


def test_the_table_says_it_in_words(clustered, tmp_path: Path) -> None:
    build_index(clustered, IndexConfig("IVF16_HNSW8,SQ8", nprobe=4, ef_search=32), tmp_path / "index")
    table = str(Card.read(tmp_path / "index"))
    for part in ("IVF16_HNSW8,SQ8", "as the recipe asks", "nprobe 4, efSearch 32", "@1 ", "leave-one-out", "queries/s"):
        assert part in table
    build_index(clustered, IndexConfig(card_queries=0), tmp_path / "unmeasured")
    assert "recall" not in str(Card.read(tmp_path / "unmeasured"))
