"""Neighbors of chunks cut inside documents."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from retrolit.data import DataConfig, prepare
from retrolit.retrieval import NeighborConfig
from retrolit.retrieval.document_chunks import DocumentChunks, DocumentRetriever, document_retriever
from retrolit.retrieval.prepare import EmbedderConfig, RetrievalConfig
from retrolit.retrieval.retriever import LiveRetriever, PreparedRetriever
from retrolit.tokens import TokenStore
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig

M = 16
NEIGHBORS = NeighborConfig(num_saved=3, num_searched=20)


@pytest.fixture
def retriever(tmp_path, texts) -> tuple[DocumentRetriever, LiveRetriever]:
    """Of a test corpus of documents of many lengths, and what it was made with."""
    for name, documents in (("old", texts[:30]), ("new", [*texts[30:], "", "a" * (2 * M)])):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(documents))
    config = DataConfig(
        str(tmp_path / "prepared"),
        TokensConfig(
            corpora={
                "old": CorpusConfig(str(tmp_path / "old.txt"), separator="", split="train"),
                "new": CorpusConfig(str(tmp_path / "new.txt"), separator="", split="test"),
            },
            tokenizer=TokenizerConfig(type="bytes"),
        ),
        RetrievalConfig(chunk_length=M, embedder=EmbedderConfig(dimension=64), neighbors=NEIGHBORS),
    )
    prepared = prepare(config)
    assert prepared.retrieval is not None
    table = prepared.retrieval.tables["test"]["new"]
    store = TokenStore(prepared.tokens.stores["test"]["new"])
    of_stream = PreparedRetriever(table, store, prepared.retrieval.database())
    made = document_retriever(of_stream, prepared.retrieval.index_folder, NEIGHBORS)
    assert made.table.folder.name.startswith("new-test-documents-")
    assert made.table.manifest.settings["cut"] == "documents"
    again = document_retriever(of_stream, prepared.retrieval.index_folder, NEIGHBORS)
    assert again.table.folder == made.table.folder
    return pickle.loads(pickle.dumps(made)), LiveRetriever(prepared.retrieval.index_folder)


def test_neighbors_are_those_of_the_documents_own_chunks(retriever):
    """As the live retriever finds them for each chunk cut from a document's start."""
    made, live = retriever
    chunk = 0
    for document in range(len(made.store)):
        tokens = made.store[document][:-1].astype(np.int64)
        for start in range(0, len(tokens), M):
            text = tokens[start : start + M]
            found = live.retrieve(np.pad(text, (0, M - len(text)))[None], np.array([len(text)]), 3)
            assert made.table.distances(chunk) == pytest.approx(found.distances[0], abs=2e-3)  # ids of ties may differ
            assert made.table[chunk][0] == found.ids[0, 0]
            position = made.store.document_starts[document] + start
            assert made.chunk_of([position, position + len(text) - 1]).tolist() == [chunk, chunk]
            chunk += 1
        assert made.chunk_of(made.store.document_starts[document + 1] - 1) == chunk - 1  # the end of the document
    assert chunk == len(made.table) == len(DocumentChunks(made.store, M))
    assert made.chunk_of(made.store.num_tokens) == chunk


def test_a_sample_ends_with_its_document(retriever):
    made, _ = retriever
    starts = made.store.document_starts
    first = made.chunk_of(np.append(starts[:-1], starts[-1]))
    ids, tokens, mask = made.samples(first, 6, 2)
    assert tokens.shape == mask.shape == (len(starts), 6, 2, 2 * M)
    for document in range(len(starts)):
        length = len(made.store[document]) - 1 if document < len(made.store) else 0
        chunks = min(6, -(-length // M))
        assert (ids[document, :chunks] == made.table[first[document] + np.arange(chunks)][:, :2]).all()
        assert (ids[document, chunks:] == -1).all()
        assert not mask[document, chunks:].any()
    others = np.zeros((len(starts), 6), dtype=np.int64)
    ids, _, _ = made.samples(first, 6, 2, others)
    assert (ids[0, 0] == made.table[0][:2]).all()
    assert (ids[-1] == -1).all()
