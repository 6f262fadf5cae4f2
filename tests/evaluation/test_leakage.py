"""Evaluation documents among the training documents."""

from __future__ import annotations

import pytest

from retrolit.evaluation.leakage import find_copies, refuse_copies
from retrolit.tokens import ByteTokenizer, TokenStore, write_store


@pytest.fixture
def make_store(tmp_path):
    def make(name: str, *texts: str) -> TokenStore:
        tokenizer = ByteTokenizer()
        write_store(tmp_path / name, [[*tokenizer.encode(text), tokenizer.eod_id] for text in texts], 257)
        return TokenStore(tmp_path / name)

    return make


def test_copies_are_found_in_every_corpus_and_named_once(make_store):
    evaluated = {"news": make_store("news", "new", "old news", ""), "wiki": make_store("wiki", "a page", "old news")}
    training = {"books": make_store("books", "old news", "", "a book"), "web": make_store("web", "old news", "a page")}
    copies = find_copies(evaluated, training)
    assert [(c.corpus, c.document, c.training_corpus, c.training_document) for c in copies] == [
        ("news", 1, "books", 0), ("wiki", 0, "web", 1), ("wiki", 1, "books", 0)
    ]  # fmt: skip
    assert str(copies[1]) == "document 0 of wiki (as document 1 of web)"
    with pytest.raises(
        ValueError, match=r"test split: document 1 of news \(as document 0 of books\) is among .*so are 2 others"
    ) as error:
        refuse_copies(copies, "test")
    assert "--evaluation.allow_leakage true" in str(error.value)


def test_where_there_are_none_nothing_is_refused(make_store):
    """A part of a document is no copy, and neither is what has no text."""
    copies = find_copies({"a": make_store("a", "old", "")}, {"b": make_store("b", "old news", "")})
    assert copies == []
    refuse_copies(copies, "test")
    assert find_copies({}, {"b": make_store("c", "old")}) == []
