"""Neighbors of conversations: those of a live search for each chunk, counted from where the last reply begins."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import neighbors
from retrolit.retrieval.conversation_neighbors import (
    ConversationChunks,
    ConversationNeighbors,
    RetrievedForConversations,
    retrieve_for_conversations,
)
from retrolit.retrieval.prepare import EmbedderConfig, RetrievalConfig, prepare_retrieval
from retrolit.retrieval.retriever import LiveRetriever
from retrolit.storage.blocks import EVERYTHING, Share
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.tokens.prepare import PreparedTokens, prepare_tokens
from retrolit.tokens.prepare_conversations import ConversationStore, prepare_conversations

SAMPLES = Path(__file__).parents[2] / "data/samples/conversations"
M = 16
EOD = 256


@pytest.fixture
def index(tmp_path: Path, texts: Sequence[str]) -> Path:
    """Of forty documents, and of sentences that some of the conversations have."""
    known = ["Every second morning the lamp is cleaned.", "The stairs are swept on Sundays, the lamp is not."]
    (tmp_path / "notes.txt").write_text("\n\n".join([*texts, *known]))
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), separator="", split="train")}
    tokens = prepare_tokens(TokensConfig(corpora, TokenizerConfig("bytes")), tmp_path / "index", processes=1)
    prepare_retrieval(RetrievalConfig(M, embedder=EmbedderConfig(dimension=64)), tokens, tmp_path / "index")
    return tmp_path / "index"


def conversations(folder: Path, **settings) -> PreparedTokens:
    files = {"qa": "nvidia-qa.json", "chat": "sharegpt.json"}
    corpora = {name: ConversationCorpusConfig(str(SAMPLES / file), split="train") for name, file in files.items()}
    config = ConversationsConfig(corpora, TokenizerConfig("bytes"), max_length=641, template="plain", **settings)
    prepared = prepare_conversations(config, folder, processes=1)
    assert prepared is not None
    return prepared


def opened(found: RetrievedForConversations, prepared: PreparedTokens, corpus: str) -> ConversationNeighbors:
    store = ConversationStore(prepared.stores["train"][corpus])
    return ConversationNeighbors(found.tables["train"][corpus], store, found.database, EOD)


@pytest.mark.parametrize("train_on", ["last", "all"])
def test_a_conversation_has_what_is_found_live_for_its_chunks(
    train_on: str, index: Path, tmp_path: Path, same_but_for_equals
) -> None:
    prepared = conversations(tmp_path / "instruct", train_on=train_on)
    found = retrieve_for_conversations(index, 3, prepared, tmp_path / "instruct")
    live, total = LiveRetriever(index), 0
    for corpus in ("qa", "chat"):
        table = pickle.loads(pickle.dumps(opened(found, prepared, corpus)))
        for number in range(len(table.store)):
            ids, mask = table.store[number].tolist(), table.store.mask_of(number).tolist()
            begin = len(mask) - mask[::-1].index(0)  # these conversations end with the last trained id
            assert table.store.prompt_lengths[number] == begin
            ends = [end for end in range(begin % M, len(ids), M) if end > 0]
            assert begin in ends
            rows = table[number]
            assert len(rows) == len(ends)
            found_live = []
            for end in ends:
                text = [i for i in ids[max(0, end - M) : end] if i != EOD]
                query = np.zeros((1, M), np.int64)
                query[0, : len(text)] = text
                found_live.append(live.retrieve(query, np.array([len(text)]), 3))
            expected = (np.concatenate([getattr(one, name) for one in found_live]) for name in ("ids", "distances"))
            same_but_for_equals(rows, *expected)
            total += len(rows)
        assert len(table.table) == len(ConversationChunks(table.store, M, EOD))
        assert table.table.manifest.settings["cut"] == "conversations"
    assert total > 20


def test_the_end_of_a_document_inside_a_conversation_is_no_part_of_a_query(tmp_path: Path) -> None:
    prepared = conversations(tmp_path, train_on="all")
    store = ConversationStore(prepared.stores["train"]["chat"])
    inner = max(range(len(store)), key=lambda number: len(store[number]))
    chunks = ConversationChunks(store, M, eod_id=ord("e"))
    first, end = chunks.first[inner : inner + 2].tolist()
    tokens, lengths = chunks.tokens(first, end)
    assert ord("e") in store[inner]
    assert not (tokens == ord("e")).any()
    assert (lengths[1:] < M).any()
    assert all((row[length:] == 0).all() for row, length in zip(tokens, lengths, strict=True))


def test_interrupted_or_divided_the_tables_are_the_same(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK_CHUNKS", 8)
    prepared = conversations(tmp_path / "instruct")

    def made(folder: Path, share: Share = EVERYTHING) -> list[bytes]:
        found = retrieve_for_conversations(index, 2, prepared, folder, share=share)
        return [(table / "ids.bin").read_bytes() for table in found.tables["train"].values()]

    once = made(tmp_path / "once")
    search, calls = neighbors.search_many, 0

    def failing(index, queries, k):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return search(index, queries, k)

    with monkeypatch.context() as patch:
        patch.setattr(neighbors, "search_many", failing)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "killed")
        calls = 3
        assert made(tmp_path / "killed") == once
        assert calls < 3 + sum(-(-len(bytes_) // (8 * 2 * 4)) for bytes_ in once), "finished blocks are kept"
    table = next(iter(retrieve_for_conversations(index, 2, prepared, tmp_path / "once").tables["train"].values()))
    (table / "ids.bin").write_bytes(b"")
    assert made(tmp_path / "once") == once
    assert made(tmp_path / "once", Share(1, 2)) == once


def test_other_trained_ids_are_another_table(index: Path, tmp_path: Path) -> None:
    """The ids are the same, but replies begin elsewhere: the fingerprint knows the mask."""
    first, second = (conversations(tmp_path / kind, train_on=kind) for kind in ("last", "all"))
    stores = [ConversationStore(prepared.stores["train"]["chat"]) for prepared in (first, second)]
    assert (stores[0].tokens == stores[1].tokens).all()
    assert stores[0].fingerprint != stores[1].fingerprint
    found = retrieve_for_conversations(index, 2, first, tmp_path / "last")
    with pytest.raises(ValueError, match="store: the neighbors were made with"):
        ConversationNeighbors(found.tables["train"]["chat"], stores[1], found.database, EOD)


def test_another_tokenizer_is_refused(index: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the lamp is cleaned every second morning " * 20)
    corpora = {"text": CorpusConfig(str(tmp_path / "text.txt"), split="train")}
    other = prepare_tokens(TokensConfig(corpora, TokenizerConfig("bpe", vocab_size=270)), tmp_path / "bpe", processes=1)
    prepared = conversations(tmp_path / "instruct")
    prepared.tokenizer_folder = other.tokenizer_folder
    with pytest.raises(ValueError, match=r"conversations.retrieval: .* holds tokens of another tokenizer"):
        retrieve_for_conversations(index, 2, prepared, tmp_path / "instruct")
