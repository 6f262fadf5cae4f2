"""Vectors on disk: complete, resumable to the same bytes, shared out, and taken over when documents are added."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrolit.retrieval import ChunkDatabase, Embeddings, LexicalEmbedder, embed_database
from retrolit.storage import Damaged
from retrolit.storage.blocks import Share, block_path
from retrolit.tokens import ByteTokenizer, TokenStore, write_store

TOKENIZER = ByteTokenizer()


def make_store(prefix: Path, texts: list[str]) -> TokenStore:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_store(prefix, [[*TOKENIZER.encode(text), TOKENIZER.eod_id] for text in texts], TOKENIZER.vocab_size)
    return TokenStore(prefix)


def texts(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(200)]
    return [" ".join(rng.choice(words, rng.integers(0, 60))) for _ in range(count)]


class Counting:
    """An embedder that notes how many chunks it embedded."""

    def __init__(self, embedder: LexicalEmbedder) -> None:
        self.embedder, self.dimension, self.fingerprint = embedder, embedder.dimension, embedder.fingerprint
        self.chunks, self.threads = 0, 1

    def embed(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        self.chunks += len(tokens)
        return self.embedder.embed(tokens, lengths)

    def embed_text(self, texts: list[str]) -> np.ndarray:
        return self.embedder.embed_text(texts)

    def save(self, folder: Path) -> None:
        self.embedder.save(folder)


class Elsewhere(Counting):
    """The same embedder on a machine that rounds otherwise."""

    def embed(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return super().embed(tokens, lengths) * np.float32(1.01)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> ChunkDatabase:
    folder = tmp_path_factory.mktemp("stores")
    return ChunkDatabase([make_store(folder / "a/train", texts(0, 30)), make_store(folder / "b/train", texts(1, 12))])


@pytest.fixture(scope="module")
def embedder(database: ChunkDatabase) -> LexicalEmbedder:
    return LexicalEmbedder.fit(database, TOKENIZER, dimension=16)


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_chunk_has_its_vector(database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path) -> None:
    embeddings = embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    assert embeddings is not None
    expected = embedder.embed(*database.tokens(np.arange(len(database))))
    assert (len(embeddings), embeddings.dimension) == expected.shape
    np.testing.assert_allclose(embeddings.rows(np.arange(len(database))), expected, atol=1e-3)
    ids = np.random.default_rng(0).integers(0, len(database), 50)
    np.testing.assert_allclose(embeddings.rows(ids), expected[ids], atol=1e-3)


def test_killed_and_damaged_it_goes_on_to_the_same_bytes(
    database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path
) -> None:
    embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    whole = contents(tmp_path / "e")
    (tmp_path / "e/manifest.json").unlink()
    block_path(tmp_path / "e", 1).unlink()
    block_path(tmp_path / "e", 2).write_bytes(whole["00000002.block"][:-5])
    counting = Counting(embedder)
    embed_database(database, counting, tmp_path / "e", block_chunks=20)
    assert contents(tmp_path / "e") == whole
    assert counting.chunks == 40


def test_finished_it_is_only_opened(database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path) -> None:
    embed_database(database, embedder, tmp_path / "e")
    counting = Counting(embedder)
    assert embed_database(database, counting, tmp_path / "e") is not None
    assert counting.chunks == 0


def test_two_machines_give_the_bytes_of_one(database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path) -> None:
    embed_database(database, embedder, tmp_path / "one", block_chunks=20)
    assert embed_database(database, embedder, tmp_path / "two", block_chunks=20, share=Share(1, 2)) is None
    counting = Counting(embedder)
    assert embed_database(database, counting, tmp_path / "two", block_chunks=20, share=Share(0, 2)) is not None
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert counting.chunks < len(database)


def test_only_added_documents_are_embedded(database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path) -> None:
    embed_database(database, embedder, tmp_path / "old", block_chunks=20)
    added = make_store(tmp_path / "c/train", texts(2, 9))
    larger = ChunkDatabase([*database.stores, added])
    counting = Counting(embedder)
    embed_database(larger, counting, tmp_path / "new", reuse=[tmp_path / "old"], block_chunks=20)
    assert counting.chunks == len(larger) - len(database)
    embed_database(larger, embedder, tmp_path / "whole", block_chunks=20)
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")


def test_of_a_store_that_grew_the_full_blocks_are_taken_over(embedder: LexicalEmbedder, tmp_path: Path) -> None:
    old = ChunkDatabase([make_store(tmp_path / "old/train", texts(3, 20))])
    grown = ChunkDatabase([make_store(tmp_path / "grown/train", texts(3, 20) + texts(4, 5))])
    embed_database(old, embedder, tmp_path / "e", block_chunks=20)
    counting = Counting(embedder)
    embed_database(grown, counting, tmp_path / "g", reuse=[tmp_path / "e"], block_chunks=20)
    assert counting.chunks == len(grown) - len(old) // 20 * 20


def test_vectors_of_another_embedder_are_not_taken_over(
    database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path
) -> None:
    embed_database(database, embedder, tmp_path / "old")
    other = Counting(LexicalEmbedder.fit(database, TOKENIZER, dimension=8))
    embed_database(database, other, tmp_path / "new", reuse=[tmp_path / "old"])
    assert other.chunks == len(database)


def test_a_folder_made_otherwise_is_refused_by_name(
    database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path
) -> None:
    embed_database(database, embedder, tmp_path / "e")
    with pytest.raises(ValueError, match=r"chunks: this run asks for \w+, the folder was made with"):
        embed_database(ChunkDatabase(database.stores, 32), embedder, tmp_path / "e")
    with pytest.raises(ValueError, match="dimension: this run asks for 8, the folder was made with 16"):
        embed_database(database, LexicalEmbedder.fit(database, TOKENIZER, 8), tmp_path / "e")


@pytest.mark.parametrize(
    "place", [3, 60, 120, -200, -5]
)  # our header, the zip's, an array's, the vectors, the zip's end
def test_a_flipped_bit_is_found_before_a_vector_is_used_and_the_block_done_again(
    place: int, database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    whole = contents(tmp_path / "e")
    expected = Embeddings(tmp_path / "e").rows([30])
    flip_bit(block_path(tmp_path / "e", 1), place)
    with pytest.raises(Damaged, match=r"00000001\.block: the block is damaged.*; run retrolit prepare again"):
        Embeddings(tmp_path / "e").rows([30])
    counting = Counting(embedder)
    mending = embed_database(database, counting, tmp_path / "e", block_chunks=20)
    assert mending is not None
    np.testing.assert_array_equal(mending.rows([30]), expected)
    assert contents(tmp_path / "e") == whole
    assert counting.chunks == 20
    assert "00000001.block is damaged" in caplog.text


def test_several_processes_may_mend_at_once(database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path) -> None:
    """Threads instead of processes: they share nothing but the folder."""
    embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    whole = contents(tmp_path / "e")
    for _ in range(5):
        flip_bit(block_path(tmp_path / "e", 0), -200)
        block_path(tmp_path / "e", 1).unlink()
        with ThreadPoolExecutor(4) as pool:
            opened = [
                pool.submit(embed_database, database, embedder, tmp_path / "e", block_chunks=20, share=Share(rank, 4))
                for rank in range(4)
            ]
            rows = [pool.submit(lambda one=one: one.result().rows(np.arange(40))) for one in opened]
        for found in rows:
            np.testing.assert_array_equal(found.result(), rows[0].result())
        assert contents(tmp_path / "e") == whole


def test_a_manifest_that_cannot_be_read_is_written_again(
    database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    whole = contents(tmp_path / "e")
    (tmp_path / "e/manifest.json").write_bytes(whole["manifest.json"][:100])
    counting = Counting(embedder)
    assert embed_database(database, counting, tmp_path / "e", block_chunks=20) is not None
    assert (contents(tmp_path / "e"), counting.chunks) == (whole, 0)
    assert "manifest.json: line" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_block_that_comes_out_otherwise_makes_other_embeddings(
    damage: str, database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path
) -> None:
    """As on a GPU, or another processor."""
    before = embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    path = block_path(tmp_path / "e", 1)
    other = Elsewhere(embedder)
    if damage == "flipped":
        flip_bit(path, -200)
        opened = embed_database(database, other, tmp_path / "e", block_chunks=20)
        assert opened is not None
        with pytest.raises(Damaged, match=r"00000001\.block: .* done again it is not what it was"):
            opened.rows([30])
    else:
        path.write_bytes(path.read_bytes()[:-5])
    after = embed_database(database, other, tmp_path / "e", block_chunks=20)
    assert before is not None
    assert after is not None
    assert after.fingerprint != before.fingerprint
    after.rows(np.arange(len(database)))


def test_blocks_are_not_taken_over_from_a_damaged_folder(
    database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed_database(database, embedder, tmp_path / "old")
    (tmp_path / "old/manifest.json").write_text("{")
    assert embed_database(database, embedder, tmp_path / "new", reuse=[tmp_path / "old"]) is not None
    assert "its blocks are not used" in caplog.text


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_block_of_a_finished_folder_is_done_again(
    damage: str, database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed_database(database, embedder, tmp_path / "e", block_chunks=20)
    whole = contents(tmp_path / "e")
    if damage == "removed":
        block_path(tmp_path / "e", 1).unlink()
    else:
        block_path(tmp_path / "e", 1).write_bytes(whole["00000001.block"][:-5])
    counting = Counting(embedder)
    assert embed_database(database, counting, tmp_path / "e", block_chunks=20) is not None
    assert contents(tmp_path / "e") == whole
    assert counting.chunks == 20
    assert "00000001.block is missing or has another size" in caplog.text


def test_ids_beyond_the_end_are_refused(database: ChunkDatabase, embedder: LexicalEmbedder, tmp_path: Path) -> None:
    embeddings = embed_database(database, embedder, tmp_path / "e")
    assert embeddings is not None
    with pytest.raises(ValueError, match=f"expected chunk ids from 0 to {len(database) - 1}, got -1 to 0"):
        embeddings.rows([-1, 0])


def test_an_unfinished_folder_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of embeddings"):
        Embeddings(tmp_path)


def test_a_database_without_a_chunk_has_no_vectors(embedder: LexicalEmbedder, tmp_path: Path) -> None:
    empty = ChunkDatabase([make_store(tmp_path / "a/train", ["", ""])])
    embeddings = embed_database(empty, embedder, tmp_path / "e")
    assert embeddings is not None
    assert (len(embeddings), embeddings.rows([]).shape) == (0, (0, 16))
