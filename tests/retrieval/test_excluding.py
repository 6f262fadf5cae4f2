"""What is excluded is never found, and the next nearest move up."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.retrieval import DictionaryRetriever, ExcludingRetriever, LiveRetriever
from tests.generation.small_retro import prepare_index


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveRetriever:
    return LiveRetriever(prepare_index(tmp_path_factory.mktemp("index") / "prepared"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97, 1.0])
def test_it_finds_what_a_search_of_everything_finds_less_the_excluded(live: LiveRetriever, share: float) -> None:
    documents = np.arange(live.database.num_documents)
    out = np.random.default_rng(0).permutation(documents)[: round(share * len(documents))]
    of = live.database.documents(np.arange(len(live.database)))
    tokens, lengths = live.database.tokens(np.arange(0, len(live.database), 5))
    everything = live.retrieve(tokens, lengths, len(live.database))
    found = ExcludingRetriever(live, lambda id: of[id] in out).retrieve(tokens, lengths, 3)
    for row in range(len(tokens)):
        kept = (everything.ids[row] >= 0) & ~np.isin(of[everything.ids[row]], out)
        expected = everything.ids[row][kept][:3]
        assert found.ids[row].tolist() == expected.tolist() + [-1] * (3 - len(expected))
        for name in ("distances", "tokens", "mask"):
            own = getattr(found, name)[row]
            np.testing.assert_array_equal(own[: len(expected)], getattr(everything, name)[row][kept][:3])
        assert np.isinf(found.distances[row, len(expected) :]).all()
        assert not found.mask[row, len(expected) :].any()
        assert not found.tokens[row, len(expected) :].any()


def test_excluding_nothing_changes_nothing(live: LiveRetriever) -> None:
    tokens, lengths = live.database.tokens(np.arange(20))
    expected = live.retrieve(tokens, lengths, 2)
    found = ExcludingRetriever(live, lambda id: False).retrieve(tokens, lengths, 2)
    for name in ("ids", "distances", "tokens", "mask"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_any_retriever_can_be_told_to_exclude() -> None:
    dictionary = DictionaryRetriever({(1, 2): [[3], [4], [5]]}, chunk_length=2)
    retriever = ExcludingRetriever(dictionary, lambda id: id == 0)
    found = retriever.retrieve(np.array([[1, 2], [2, 1]]), np.array([2, 2]), 1)
    assert found.ids.tolist() == [[1], [-1]]
    assert found.tokens[0, 0, 0] == 4
    assert retriever.chunk_length == 2
    assert retriever.source(1) == dictionary.source(1)
