"""Bytes and hours of a database, held to the paper's account and to the artifacts' formats."""

from __future__ import annotations

import pytest

from retrolit.planning import Database, Rates, plan_database
from retrolit.retrieval.index_plan import IndexConfig
from retrolit.retrieval.prepare import EmbedderConfig, RetrievalConfig

BERT = RetrievalConfig(
    embedder=EmbedderConfig(type="encoder", name="bert-large"),
    index=IndexConfig(factory="OPQ64_128,IVF4194304_HNSW32,PQ64", training_vectors=400_000_000),
)


def test_the_paper_s_database_takes_the_paper_s_hours() -> None:
    """19 billion chunks: 3,054 A100 hours to embed, 192 core hours to add, 1,736 to search those of 100 G tokens."""
    plan = plan_database(BERT, Database(19e9 * 64, stream_tokens=100e9, dimension=1024), Rates())
    assert plan.chunks == 19_000_000_000
    assert plan.embed_hours == pytest.approx(3054, rel=0.001)
    assert plan.add_hours == pytest.approx(192, rel=0.001)
    assert plan.query_hours == pytest.approx(1736, rel=0.001)
    assert plan.index.bytes == pytest.approx(1.37e12, rel=0.01)  # 64 bytes of code and 8 of id, a vector
    assert plan.training_bytes == 400_000_000 * 1024 * 4


def test_bytes_are_those_of_the_formats() -> None:
    database = Database(64_000, documents=100, stream_tokens=6_400, vocab_size=257)
    plan = plan_database(RetrievalConfig(), database, Rates())
    assert plan.chunks == 1_000 + 50
    assert plan.token_bytes == 2 * 64_000 + 100 * (4 + 8 + 8)
    assert plan.embedding_bytes == 1_050 * 384 * 2
    assert plan.table_bytes == 100 * 20 * (4 + 2)
    assert plan.index.factory == "Flat"
    assert plan.index.bytes == 1_050 * 384 * 4


def test_rates_are_taken_as_given() -> None:
    plan = plan_database(RetrievalConfig(), Database(64 * 36_000), Rates(embed=10, add=5, query=2))
    assert (plan.embed_hours, plan.add_hours, plan.query_hours) == (1, 2, 5)


def test_what_is_missing_or_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"database.dimension: expected the width of bert-large's vectors"):
        plan_database(BERT, Database(1e9), Rates())
    with pytest.raises(ValueError, match=r"database.tokens: expected more than 0, got 0"):
        Database(0)
    with pytest.raises(ValueError, match=r"rates.query: expected more than 0, got -1"):
        Rates(query=-1)
