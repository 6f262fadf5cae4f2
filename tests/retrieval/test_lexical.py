"""The lexical embedder finds shared words, and gives the same vector to the same chunk whatever surrounds it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from retrolit.retrieval import ChunkDatabase, Embedder, EmbedderConfig, LexicalEmbedder, load_embedder
from retrolit.retrieval.directions import fit_directions
from retrolit.tokens import ByteTokenizer, Tokenizer, TokenStore, train_bpe, write_store

TOPICS = ["whale harpoon sail mast ocean", "senate vote law treaty debate", "cell enzyme protein gene membrane"]


def make_database(folder: Path, texts: list[str], tokenizer: Tokenizer) -> ChunkDatabase:
    write_store(folder / "train", [[*tokenizer.encode(t), tokenizer.eod_id] for t in texts], tokenizer.vocab_size)
    return ChunkDatabase([TokenStore(folder / "train")])


def topical_texts(per_topic: int = 8, words: int = 150) -> list[str]:
    """Documents in which words of one topic stand among words that say nothing."""
    rng = np.random.default_rng(0)
    common = ["the", "of", "and", "to", "in", "a", "is", "that", "it", "was"]
    return [
        " ".join(rng.choice(topic.split() if rng.random() < 0.4 else common) for _ in range(words))
        for topic in TOPICS
        for _ in range(per_topic)
    ]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else train_bpe(topical_texts(), 330)


@pytest.fixture(scope="module")
def database(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> ChunkDatabase:
    return make_database(tmp_path_factory.mktemp("topics"), topical_texts(), tokenizer)


@pytest.fixture(scope="module")
def embedder(database: ChunkDatabase, tokenizer: Tokenizer) -> LexicalEmbedder:
    return LexicalEmbedder.fit(database, tokenizer, dimension=32)


def test_it_follows_the_protocol(embedder: LexicalEmbedder) -> None:
    assert isinstance(embedder, Embedder)
    assert embedder.dimension == 32


def test_rows_have_length_one(embedder: LexicalEmbedder, database: ChunkDatabase) -> None:
    vectors = embedder.embed(*database.tokens(np.arange(len(database))))
    assert vectors.shape == (len(database), 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_nearest_chunk_is_of_the_same_topic(embedder: LexicalEmbedder, database: ChunkDatabase) -> None:
    vectors = embedder.embed(*database.tokens(np.arange(len(database))))
    documents = database.documents(np.arange(len(database)))
    similar = vectors @ vectors.T
    similar[documents[:, None] == documents] = -1
    assert (documents[similar.argmax(axis=1)] // 8 == documents // 8).mean() > 0.95


def test_the_rows_of_a_chunk_do_not_depend_on_its_company(embedder: LexicalEmbedder, database: ChunkDatabase) -> None:
    tokens, lengths = database.tokens(np.arange(len(database)))
    alone = np.concatenate([embedder.embed(tokens[i : i + 1], lengths[i : i + 1]) for i in range(len(tokens))])
    together = embedder.embed(np.tile(tokens, (40, 1)), np.tile(lengths, 40))
    np.testing.assert_array_equal(together, np.tile(alone, (40, 1)))


def test_padding_does_not_count(embedder: LexicalEmbedder, database: ChunkDatabase) -> None:
    tokens, lengths = database.tokens(np.array([2]))
    other = np.concatenate([tokens, tokens], axis=1)
    np.testing.assert_array_equal(embedder.embed(other, lengths), embedder.embed(tokens, lengths))


def test_a_chunk_without_words_gets_zeros(embedder: LexicalEmbedder) -> None:
    vectors = embedder.embed_text(["", "   \n", "... !", "whale"])
    assert not vectors[:3].any()
    assert vectors[3].any()
    assert embedder.embed_text([]).shape == (0, 32)
    assert embedder.embed(np.zeros((2, 0), np.int64), np.zeros(2, np.int64)).tolist() == [[0.0] * 32] * 2


def test_text_and_chunk_get_the_same_vector(
    embedder: LexicalEmbedder, database: ChunkDatabase, tokenizer: Tokenizer
) -> None:
    tokens, lengths = database.tokens(np.array([0]))
    text = tokenizer.decode(tokens[0, : lengths[0]].tolist())
    np.testing.assert_allclose(embedder.embed_text([text]), embedder.embed(tokens, lengths), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_text([text.upper()]), embedder.embed_text([text]), atol=1e-6)


def test_a_word_never_seen_still_brings_chunks_together(embedder: LexicalEmbedder) -> None:
    one, same, other = embedder.embed_text(["the Zanzibarians", "of zanzibarians", "of Qualtaghers"])
    assert one @ same > 0.5 + one @ other


def test_the_larger_its_mark_the_more_a_word_counts_for_itself(database: ChunkDatabase, tokenizer: Tokenizer) -> None:
    name, related, *_ = TOPICS[0].split()
    lead = []
    for mark in (0.0, 0.4, 6.0):
        embedder = LexicalEmbedder.fit(database, tokenizer, dimension=32, mark=mark)
        asked, itself, other = embedder.embed_text([f"the {name}", name, related])
        lead.append(asked @ itself - asked @ other)
    assert lead[0] < lead[1] < lead[2]


def test_saved_and_loaded_it_is_the_same(
    embedder: LexicalEmbedder, database: ChunkDatabase, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    embedder.save(tmp_path / "embedder")
    loaded = load_embedder(tmp_path / "embedder", tokenizer)
    chunks = database.tokens(np.arange(5))
    assert loaded.fingerprint == embedder.fingerprint
    np.testing.assert_array_equal(loaded.embed(*chunks), embedder.embed(*chunks))


def test_an_embedder_of_an_earlier_version_is_made_again(
    embedder: LexicalEmbedder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """From before there were marks of other lengths."""
    embedder.save(tmp_path)
    with np.load(tmp_path / "lexical.npz") as arrays:
        earlier = {name: arrays[name] for name in arrays if name != "mark"}
    np.savez(tmp_path / "lexical.npz", **earlier)
    with pytest.raises(ValueError, match=r"made by an earlier version of retrolit; .* retrolit prepare -c data\.yaml"):
        LexicalEmbedder.load(tmp_path, tokenizer)


def test_an_embedder_for_another_tokenizer_is_refused(embedder: LexicalEmbedder, tmp_path: Path) -> None:
    embedder.save(tmp_path / "embedder")
    with pytest.raises(ValueError, match="tokenizer: expected the one with fingerprint"):
        load_embedder(tmp_path / "embedder", train_bpe(["another text " * 9], 262))


def test_fitting_again_gives_the_same_embedder_and_other_settings_another(
    database: ChunkDatabase, tokenizer: Tokenizer, embedder: LexicalEmbedder
) -> None:
    assert LexicalEmbedder.fit(database, tokenizer, dimension=32).fingerprint == embedder.fingerprint
    others = [
        LexicalEmbedder.fit(database, tokenizer, 16),
        LexicalEmbedder.fit(database, tokenizer, 32, mark=2),
        LexicalEmbedder.fit(database, tokenizer, 32, sample_chunks=20),
    ]
    assert len({embedder.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize("texts", [[""], ["whale"], ["whale " * 300], ["!"]], ids=["empty", "word", "repeated", "none"])
def test_the_smallest_corpora_work(texts: list[str], tmp_path: Path) -> None:
    embedder = LexicalEmbedder.fit(make_database(tmp_path, texts, ByteTokenizer()), ByteTokenizer(), dimension=32)
    vectors = embedder.embed_text(["whale", "ship", ""])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0], atol=1e-5)


def test_an_impossible_dimension_is_refused(database: ChunkDatabase, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="dimension: expected at least 1, got 0"):
        LexicalEmbedder.fit(database, tokenizer, dimension=0)


def test_an_impossible_mark_is_refused() -> None:
    with pytest.raises(ValueError, match=r"EmbedderConfig.mark: expected at least 0, got -1"):
        EmbedderConfig(mark=-1)


def test_directions_are_the_leading_eigenvectors() -> None:
    chunks, following = torch.rand(50, 30), torch.rand(50, 30)
    whole = (chunks.T @ following + following.T @ chunks) / 2
    vectors = torch.linalg.eigh(whole).eigenvectors
    directions = fit_directions(chunks.to_sparse_csr(), following.to_sparse_csr(), 5)
    agree = (directions.T @ vectors.flip(1)[:, :5]).abs()
    torch.testing.assert_close(agree, torch.eye(5), atol=1e-3, rtol=0)
    assert not fit_directions(chunks.to_sparse_csr(), following.to_sparse_csr(), 40)[:, 30:].any()


def test_neighbors_hold_words_of_what_comes_next(shared: Path, tmp_path: Path) -> None:
    """On a tenth of WikiText-2; benchmarks/lexical_quality.py compares with other embedders on all of it."""
    text = gzip.decompress((shared / "data/corpora/wikitext-2/valid.txt.gz").read_bytes()).decode()
    tokenizer = ByteTokenizer()
    database = make_database(tmp_path, re.split(r"\n (?== [^=])", text), tokenizer)
    embedder = LexicalEmbedder.fit(database, tokenizer, dimension=64)
    ids = np.arange(len(database))
    vectors = embedder.embed(*database.tokens(ids))
    documents = database.documents(ids)
    queries = np.random.default_rng(0).choice(np.flatnonzero(documents[1:] == documents[:-1]), 500, replace=False)
    similar = vectors[queries] @ vectors.T
    similar[documents[queries][:, None] == documents] = -1

    def words(id: int, num_chunks: int) -> set[str]:
        tokens, mask = database.neighbor_tokens(id, num_chunks)
        return set(re.findall(r"[a-z]{5,}", tokenizer.decode(tokens[mask].tolist()).lower()))

    def found(neighbors: np.ndarray) -> float:
        shares = []
        for query, (one, other) in zip(queries, neighbors, strict=True):
            if following := words(query + 1, 1):
                shares.append(len(following & (words(one, 2) | words(other, 2))) / len(following))
        return float(np.mean(shares))

    at_random = np.random.default_rng(1).integers(0, len(database), (500, 2))
    assert found(similar.argsort(axis=1)[:, -2:]) > 2 * found(at_random)
