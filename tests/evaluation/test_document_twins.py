"""Near duplicates of documents, against all pairs compared."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.evaluation import document_twins
from retrolit.evaluation.document_twins import find_twins
from retrolit.tokens import TokenStore, write_store


@pytest.fixture
def stores(tmp_path):
    """Documents of 0 to 200 tokens, and the same with some of the tokens changed; 0 closes each."""
    draw = np.random.default_rng(0)
    ours = [draw.integers(1, 500, draw.integers(0, 200)) for _ in range(60)]
    theirs = []
    for number, document in enumerate(ours):
        changed = document.copy()
        if len(changed):
            changed[draw.integers(len(changed), size=number % 4)] = 7
        theirs.append(np.concatenate([changed, draw.integers(1, 500, number % 3 * 5)]))
    theirs.append(ours[50])
    made = []
    for name, documents in (("ours", ours), ("theirs", theirs)):
        write_store(tmp_path / name, [[*document.tolist(), 0] for document in documents], 500)
        made.append(TokenStore(tmp_path / name))
    return made


def _grams(document) -> set[tuple[int, ...]]:
    tokens = document[:-1].tolist()
    return {tuple(tokens[i : i + 13]) for i in range(len(tokens) - 12)}


def _similarity(first, second) -> float:
    together = _grams(first) | _grams(second)
    return len(_grams(first) & _grams(second)) / len(together) if together else 0.0


@pytest.mark.parametrize("block", [100, 2**20])
def test_the_closest_of_all_pairs_is_found(stores, block, monkeypatch):
    monkeypatch.setattr(document_twins, "BLOCK_TOKENS", block)
    ours, theirs = stores
    expected = {}
    for document in range(len(ours)):
        similarities = [_similarity(ours[document], other) for other in theirs]
        if max(similarities) >= 0.8:
            expected[document] = max(similarities)
    twins = find_twins({"ours": ours}, {"theirs": theirs})
    assert {twin.document: pytest.approx(twin.similarity) for twin in twins} == expected
    assert 10 < len(twins) < 50
    assert any(twin.similarity == 1 for twin in twins)
    for twin in twins:
        assert _similarity(ours[twin.document], theirs[twin.training_document]) == pytest.approx(twin.similarity)
        assert (twin.corpus, twin.training_corpus) == ("ours", "theirs")
        assert twin.training_source == f"document {twin.training_document}"


def test_several_corpora_are_told_apart(stores):
    ours, theirs = stores
    twins = find_twins({"a": theirs, "b": ours}, {"c": ours, "d": theirs})
    own = [twin for twin in twins if twin.corpus == "a"]
    assert len(own) == sum(len(_grams(document)) > 0 for document in theirs)
    assert {twin.similarity for twin in twins} == {1.0}
    assert find_twins({}, {"c": ours}) == []


def test_what_the_bands_cannot_promise_is_refused(stores):
    with pytest.raises(ValueError, match=r"threshold: expected 0.5 to 1, got 0.3"):
        find_twins({"a": stores[0]}, {"b": stores[1]}, threshold=0.3)
