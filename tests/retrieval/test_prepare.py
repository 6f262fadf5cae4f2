"""From stores to tables: what is finished stays, other settings go elsewhere, two processes do as one."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrolit.data.preparation import DataConfig, prepare, prepare_share
from retrolit.retrieval import (
    EmbedderConfig,
    Index,
    IndexConfig,
    LexicalEmbedder,
    LiveRetriever,
    NeighborConfig,
    NeighborTable,
    RetrievalConfig,
    embeddings,
)
from retrolit.storage import Damaged
from retrolit.storage.blocks import Share
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig

SMALL = RetrievalConfig(16, embedder=EmbedderConfig(dimension=64), neighbors=NeighborConfig(4, 20))


@pytest.fixture
def data(tmp_path: Path, texts: list[str]) -> DataConfig:
    (tmp_path / "notes.txt").write_text("\n\n".join(texts[:30]))
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), separator="")}
    splits = {"train": 0.8, "validation": 0.2}
    return DataConfig(str(tmp_path / "prepared"), TokensConfig(corpora, TokenizerConfig("bytes"), splits), SMALL)


def add_corpus(data: DataConfig, tmp_path: Path, texts: list[str], retrieval: RetrievalConfig) -> DataConfig:
    (tmp_path / "more.txt").write_text("\n\n".join(texts[30:]))
    more = CorpusConfig(str(tmp_path / "more.txt"), separator="", split="train")
    return replace(data, tokens=replace(data.tokens, corpora=data.tokens.corpora | {"more": more}), retrieval=retrieval)


def add_library(data: DataConfig, tmp_path: Path, texts: list[str]) -> DataConfig:
    """With a database-only corpus of new texts, and of ten that the notes have, too."""
    (tmp_path / "library.txt").write_text("\n\n".join(texts[20:]))
    library = CorpusConfig(str(tmp_path / "library.txt"), separator="", database_only=True)
    return replace(data, tokens=replace(data.tokens, corpora=data.tokens.corpora | {"library": library}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def contents(folder: Path) -> dict[str, bytes]:
    """All files under retrieval/, but for locks and the cards with their speeds."""
    retrieval = folder / "retrieval"
    return {
        str(path.relative_to(retrieval)): path.read_bytes()
        for path in retrieval.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != "card.json"
    }


def test_every_split_has_a_table_of_neighbors_from_train(data: DataConfig) -> None:
    prepared = prepare(data)
    assert prepared.retrieval is not None
    database = prepared.retrieval.database()
    assert [store.prefix for store in database.stores] == [prepared.tokens.stores["train"]["notes"]]
    assert set(prepared.retrieval.tables) == {"train", "validation", "test"}
    assert not prepared.retrieval.tables["test"]  # has no documents
    for split in ("train", "validation"):
        table = NeighborTable(prepared.retrieval.tables[split]["notes"])
        ids = table[np.arange(len(table))]
        assert ids.max() < len(database)
        assert (ids[:, 0] >= 0).mean() > 0.9
    assert len(LiveRetriever(data.folder).index) == len(database)


def test_what_is_finished_is_only_opened(data: DataConfig) -> None:
    first = prepare(data)
    times = {path: path.stat().st_mtime_ns for path in Path(data.folder).rglob("*") if path.suffix != ".lock"}
    assert prepare(data) == first
    assert {path: path.stat().st_mtime_ns for path in Path(data.folder).rglob("*") if path.suffix != ".lock"} == times


def test_other_settings_make_other_folders_and_share_what_they_can(data: DataConfig) -> None:
    first = prepare(data).retrieval
    before = contents(Path(data.folder))
    other = prepare(replace(data, retrieval=replace(SMALL, neighbors=NeighborConfig(2, 20)))).retrieval
    assert first is not None
    assert other is not None
    assert other.index_folder == first.index_folder
    assert other.tables["train"]["notes"] != first.tables["train"]["notes"]
    shorter = prepare(replace(data, retrieval=replace(SMALL, chunk_length=8))).retrieval
    assert shorter is not None
    assert shorter.index_folder != first.index_folder
    assert contents(Path(data.folder)).items() >= before.items()


def test_an_index_other_than_asked_for_is_explained_even_where_it_is_there(data: DataConfig) -> None:
    prepare(data)
    told: list[str] = []
    asked = replace(SMALL, index=IndexConfig("IVF4096,SQ8"))
    prepare_share(replace(data, retrieval=asked), Share(), tell=told.append)
    assert len(told) == 1
    assert "IVF4096,SQ8 needs at least 4,096 vectors to train" in told[0]


def test_without_retrieval_nothing_of_it_is_made(data: DataConfig) -> None:
    assert prepare(replace(data, retrieval=None)).retrieval is None
    assert not (Path(data.folder) / "retrieval").exists()


def test_two_processes_give_the_bytes_of_one(data: DataConfig, tmp_path: Path) -> None:
    """Threads instead of processes: they share nothing but the folder."""
    prepare(data)
    together = replace(data, folder=str(tmp_path / "together"))
    results = {}

    def run(rank: int) -> None:
        results[rank] = prepare_share(together, Share(rank, 2))

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results[0] is not None
    assert results[0].retrieval == results[1].retrieval
    assert contents(tmp_path / "together") == contents(Path(data.folder))


@pytest.mark.parametrize("world", [1, 2])
def test_what_is_damaged_is_made_again(data: DataConfig, world: int, caplog: pytest.LogCaptureFixture) -> None:
    """A part of everything at once; threads instead of processes, as above."""
    retrieval = prepare(data).retrieval
    assert retrieval is not None
    folder = Path(data.folder)
    before = contents(folder)
    shutil.rmtree(retrieval.index_folder)  # so that all vectors are read
    next(folder.glob("retrieval/embedder-*/*.npz")).unlink()
    cut(retrieval.tables["train"]["notes"] / "ids.bin")
    cut(retrieval.tables["validation"]["notes"] / "manifest.json")
    block = next(folder.glob("retrieval/embeddings-*/*.block"))
    content = bytearray(block.read_bytes())
    content[-200] ^= 1
    block.write_bytes(content)
    with ThreadPoolExecutor(world) as pool:
        for done in [pool.submit(prepare_share, data, Share(rank, world)) for rank in range(world)]:
            assert done.result() is not None
    after = contents(folder)
    set_aside = {name for name in after if ".damaged" in name}
    assert {name.split("/")[-2].split("-")[0] for name in set_aside} == {".embedder", ".notes"}
    assert {name: content for name, content in after.items() if name not in set_aside} == before
    assert "00000000.block is damaged" in caplog.text
    cut(retrieval.index_folder / "shard-0000.faiss")
    prepare(data)
    assert contents(folder).items() >= before.items()
    assert "shard-0000.faiss: expected" in caplog.text


@pytest.mark.parametrize("world", [1, 2])
def test_vectors_that_come_out_otherwise_make_another_index(
    data: DataConfig, world: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(data).retrieval
    assert first is not None
    shutil.rmtree(first.index_folder)
    block = next(Path(data.folder).glob("retrieval/embeddings-*/*.block"))
    block.write_bytes(block.read_bytes()[:-1] + b"x")
    right = LexicalEmbedder.embed
    monkeypatch.setattr(LexicalEmbedder, "embed", lambda self, *chunks: right(self, *chunks) * np.float32(1.01))
    if world > 1:
        with pytest.raises(Damaged, match="done again it is not what it was"):
            prepare_share(data, Share(0, world))
    second = prepare(data).retrieval
    assert second is not None
    assert ("came out otherwise" in caplog.text) is (world == 1)
    assert second.index_folder != first.index_folder
    assert second.tables["train"]["notes"] != first.tables["train"]["notes"]
    Index(second.index_folder)


@pytest.mark.parametrize("factory", [None, "IVF16,SQ8"])
def test_adding_documents_embeds_and_indexes_only_the_new_ones(
    data: DataConfig, tmp_path: Path, texts: list[str], factory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval = replace(SMALL, index=IndexConfig(factory, nprobe=16))
    first = prepare(replace(data, retrieval=retrieval)).retrieval
    assert first is not None
    old = first.database()
    grown_data = add_corpus(data, tmp_path, texts, replace(retrieval, extends=str(first.index_folder)))

    embedded = []
    embed = embeddings.EmbedBlock.__call__
    monkeypatch.setattr(
        embeddings.EmbedBlock, "__call__", lambda self, span: embedded.append(span) or embed(self, span)
    )
    grown = prepare(grown_data).retrieval
    assert grown is not None
    database = grown.database()
    assert len(database) > len(old)
    assert min(start for start, _ in embedded) == len(old)
    index = Index(grown.index_folder)
    assert index.manifest.sizes["shards"] == 2
    # The same chunks are found as by an index made of everything at once, with the old embedder.
    live = LiveRetriever(grown.index_folder)
    tokens, lengths = database.tokens(np.arange(len(database)))
    similarity = live.embedder.embed(tokens, lengths) @ live.embedder.embed(tokens, lengths).T
    found = live.retrieve(tokens, lengths, 1)
    nearest = similarity[np.arange(len(database)), found.ids[:, 0]]
    assert (nearest > similarity.max(axis=1) - 0.02).mean() > 0.95
    assert (found.ids >= len(old)).any()


def test_documents_added_to_a_corpus_keep_the_chunks_before_them(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    first = prepare(data).retrieval
    assert first is not None
    (tmp_path / "notes.txt").write_text("\n\n".join(texts))
    grown = prepare(replace(data, retrieval=replace(SMALL, extends=str(first.index_folder)))).retrieval
    assert grown is not None
    assert len(grown.database()) > len(first.database())
    for before, after in zip(
        first.database().tokens(np.arange(40)), grown.database().tokens(np.arange(40)), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_an_index_that_is_not_the_beginning_cannot_be_extended(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    first = prepare(data).retrieval
    assert first is not None
    extends = replace(SMALL, extends=str(first.index_folder))
    reversed_data = add_corpus(data, tmp_path, texts, extends)
    corpora = dict(reversed(reversed_data.tokens.corpora.items()))
    with pytest.raises(ValueError, match=r"is not the beginning of this one.*after the old ones"):
        prepare(replace(reversed_data, tokens=replace(data.tokens, corpora=corpora)))
    with pytest.raises(ValueError, match=r"chunk_length: .* was made with 16, this run asks for 8"):
        prepare(replace(data, retrieval=replace(extends, chunk_length=8)))
    with pytest.raises(FileNotFoundError, match=r"RetrievalConfig\.extends: expected an index folder"):
        prepare(replace(data, retrieval=replace(SMALL, extends=str(tmp_path))))


def test_the_corpora_of_the_database_can_be_chosen(data: DataConfig, tmp_path: Path, texts: list[str]) -> None:
    both = add_corpus(data, tmp_path, texts, replace(SMALL, corpora=["more"]))
    prepared = prepare(both)
    assert prepared.retrieval is not None
    assert prepared.retrieval.stores == [prepared.tokens.stores["train"]["more"]]
    assert set(prepared.retrieval.tables["train"]) == {"notes", "more"}
    with pytest.raises(
        ValueError, match=r"corpora: expected corpora with train or database documents \(notes, more\), got web"
    ):
        prepare(replace(both, retrieval=replace(SMALL, corpora=["more", "web"])))


def test_a_database_only_corpus_is_read_for_its_neighbors_alone(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    alone = prepare(data)
    prepared = prepare(add_library(data, tmp_path, texts))
    assert prepared.retrieval is not None
    assert alone.retrieval is not None
    train, library = prepared.tokens.stores["train"]["notes"], prepared.tokens.database["library"]
    assert train == alone.tokens.stores["train"]["notes"]
    assert prepared.retrieval.stores == [train, library]
    assert {split: set(tables) for split, tables in prepared.retrieval.tables.items()} == {
        "train": {"notes"}, "validation": {"notes"}, "test": set()
    }  # fmt: skip
    assert len(list((Path(data.folder) / "retrieval/neighbors").glob("library-*"))) == 0
    database, first = prepared.retrieval.database(), len(alone.retrieval.database())
    table = NeighborTable(prepared.retrieval.tables["train"]["notes"])
    ids = table[np.arange(len(table))]
    assert (ids >= first).mean() > 0.2
    assert table.manifest.sizes["copies"] > 0, "of train documents, which the library has too"
    assert database.source(first).startswith(f"{library.parent.name}/database: library.txt:")
    live = LiveRetriever(prepared.retrieval.index_folder)
    tokens, lengths = database.tokens([database.first_chunk(database.num_documents - 1)])  # of a text of its own
    assert live.source(int(live.retrieve(tokens, lengths, 1).ids[0, 0])).startswith(library.parent.name)


def test_a_database_can_be_made_of_database_only_corpora_alone(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    both = add_library(data, tmp_path, texts)
    prepared = prepare(replace(both, retrieval=replace(SMALL, corpora=["library"])))
    assert prepared.retrieval is not None
    assert prepared.retrieval.stores == [prepared.tokens.database["library"]]
    with pytest.raises(ValueError, match=r"corpora: library is database_only and not named.*leave it out"):
        prepare(replace(both, retrieval=replace(SMALL, corpora=["notes"])))


def test_documents_appended_to_a_database_only_corpus_extend_the_index(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    both = add_library(data, tmp_path, texts[:-8])
    first = prepare(both).retrieval
    assert first is not None
    grown_data = replace(add_library(data, tmp_path, texts), retrieval=replace(SMALL, extends=str(first.index_folder)))
    grown = prepare(grown_data).retrieval
    assert grown is not None
    assert len(grown.database()) > len(first.database())
    assert Index(grown.index_folder).manifest.sizes["shards"] == 2
    before, after = (each.database().tokens(np.arange(len(first.database())))[0] for each in (first, grown))
    np.testing.assert_array_equal(before, after)


def test_two_processes_give_the_bytes_of_one_with_a_database_only_corpus(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    both = add_library(data, tmp_path, texts)
    prepare(both)
    together = replace(both, folder=str(tmp_path / "together"))
    threads = [threading.Thread(target=prepare_share, args=(together, Share(rank, 2)), daemon=True) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert contents(tmp_path / "together") == contents(Path(data.folder))


def test_a_database_only_corpus_without_a_database_is_refused(
    data: DataConfig, tmp_path: Path, texts: list[str]
) -> None:
    both = add_library(data, tmp_path, texts)
    with pytest.raises(ValueError, match=r"tokens\.corpora: library: database_only, but there is no `retrieval:`"):
        replace(both, retrieval=None)
    alone = both.without_retrieval()
    assert alone == replace(data, retrieval=None)
    assert prepare(alone).tokens.database == {}
    assert not list((Path(data.folder) / "tokens").glob("library-*"))


def test_no_train_documents_make_no_database(data: DataConfig, tmp_path: Path) -> None:
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), separator="", split="test")}
    with pytest.raises(ValueError, match="expected train documents to make the database of, got none"):
        prepare(replace(data, tokens=replace(data.tokens, corpora=corpora)))


def test_impossible_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"RetrievalConfig\.chunk_length: expected at least 1"):
        RetrievalConfig(0)
    with pytest.raises(ValueError, match=r"EmbedderConfig\.type: expected lexical or encoder"):
        EmbedderConfig("tfidf")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"EmbedderConfig\.name: expected with type encoder only"):
        EmbedderConfig("encoder")
