"""Chunks of a stream and their documents, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.retrieval import ChunkDatabase
from retrolit.retrieval.chunks import PAD
from retrolit.retrieval.stream_chunks import OwnDocuments, StreamChunks
from retrolit.tokens import ByteTokenizer

EOD = ByteTokenizer().eod_id


@pytest.mark.parametrize("length", [1, 7, 8, 9, 62, 63, 64, 65, 127, 128, 129])
def test_tokens_and_documents_are_those_of_a_loop(make_store, length: int) -> None:
    store = make_store("x", ["a" * length, "", "bc", "d" * 20])
    chunks = StreamChunks(store, 8)
    stream = store.tokens.tolist()
    document_of = [i for i in range(len(store)) for _ in store[i]]
    assert len(chunks) == -(-len(stream) // 8)
    tokens, lengths = chunks.tokens(0, len(chunks))
    first, last = chunks.documents(0, len(chunks))
    for chunk in range(len(chunks)):
        part = stream[8 * chunk : 8 * chunk + 8]
        expected = [token for token in part if token != EOD]
        assert tokens[chunk].tolist() == expected + [PAD] * (8 - len(expected))
        assert lengths[chunk] == len(expected)
        documents = document_of[8 * chunk : 8 * chunk + 8]
        assert (first[chunk], last[chunk]) == (documents[0], documents[-1])
    part_tokens, part_lengths = chunks.tokens(1, 2)
    np.testing.assert_array_equal(part_tokens, tokens[1:2])
    np.testing.assert_array_equal(part_lengths, lengths[1:2])


def test_documents_of_a_sample_include_that_of_its_last_label(make_store) -> None:
    store = make_store("x", ["a" * 7, "b" * 7, "c" * 7])  # one document a chunk of 8
    first, last = StreamChunks(store, 8).documents_between(np.array([0, 1, 2]), np.array([1, 3, 3]))
    assert first.tolist() == [0, 1, 2]
    assert last.tolist() == [1, 2, 2]  # nothing comes after the stream's end


def test_own_documents_and_copies(make_store) -> None:
    others = make_store("others", ["same text", "one"])
    store = make_store("store", ["two", "same text", "three", "two"])
    database = ChunkDatabase([others, store], 8)
    documents = np.arange(6)[None].repeat(2, axis=0)
    first, last = np.array([0, 1]), np.array([1, 2])
    own, copies = OwnDocuments(store, database, copies=True).among(first, last, documents)
    assert own.tolist() == [[False, False, True, True, False, False], [False, False, False, True, True, False]]
    assert copies.tolist() == [[True, False, False, False, False, True], [True, False, False, False, False, False]]
    own_alone, none = OwnDocuments(store, database, copies=False).among(first, last, documents)
    np.testing.assert_array_equal(own_alone, own)
    assert not none.any()


def test_a_store_outside_the_database_has_copies_there_and_no_own_documents(make_store) -> None:
    database = ChunkDatabase([make_store("store", ["two", "same text", "three"])], 8)
    outside = OwnDocuments(make_store("outside", ["new", "same text"]), database, copies=True)
    assert outside.offset is None
    own, copies = outside.among(np.array([0, 1]), np.array([0, 1]), np.arange(3)[None].repeat(2, axis=0))
    assert not own.any()
    assert copies.tolist() == [[False, False, False], [False, True, False]]
