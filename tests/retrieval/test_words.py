"""The words of token chunks are those a person reads, whatever the tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from retrolit.retrieval.words import WordTable
from retrolit.tokens import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe

TEXT = "The cat, the CAT and a concatenation; Cats' 42 naps-a-day. It said: so_be_it\n\nUnbelievably the cat\tsleeps"


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else train_bpe([TEXT * 3, "the cat sat on the mat " * 20], 275)


def hashes(tokenizer: Tokenizer, *texts: str, lengths: list[int] | None = None) -> list[list[int]]:
    ids = [tokenizer.encode(text) for text in texts]
    tokens = np.zeros((len(ids), max(map(len, ids), default=0)), np.int64)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = values
    words = WordTable.of(tokenizer).words(tokens, np.array(lengths or [len(row) for row in ids]))
    return [words.hash[words.chunk == row].tolist() for row in range(len(ids))]


def test_words_are_equal_where_a_reader_says_so(tokenizer: Tokenizer) -> None:
    [found] = hashes(tokenizer, TEXT)
    spelled = re.findall(r"[a-z0-9]+", TEXT.lower())
    assert len(found) == len(spelled)
    for i in range(len(found)):
        for j in range(len(found)):
            assert (found[i] == found[j]) == (spelled[i] == spelled[j]), (spelled[i], spelled[j])


def test_all_tokenizers_agree(tokenizer: Tokenizer) -> None:
    assert hashes(tokenizer, TEXT) == hashes(ByteTokenizer(), TEXT)


def test_padding_is_no_word(tokenizer: Tokenizer) -> None:
    assert hashes(tokenizer, TEXT, "the", "", lengths=[len(tokenizer.encode(TEXT)), len(tokenizer.encode("the")), 0])[
        1:
    ] == [
        hashes(tokenizer, "the")[0],
        [],
    ]


def test_a_word_at_the_border_of_a_row_does_not_run_into_the_next(tokenizer: Tokenizer) -> None:
    width = len(tokenizer.encode("a cat"))
    tokens = np.array([tokenizer.encode("a cat"), tokenizer.encode("a cat")])
    words = WordTable.of(tokenizer).words(tokens, np.array([width, width]))
    assert words.chunk.tolist() == [0, 0, 1, 1]
    assert words.hash[:2].tolist() == words.hash[2:].tolist() == hashes(tokenizer, "a cat")[0]


def test_scripts_without_spaces_give_more_than_one_word_a_sentence() -> None:
    tokenizer = train_bpe(["日本語 東京 京都 日本 語"] * 50, 270)
    one, other = (set(row) for row in hashes(tokenizer, "日本語東京", "京都東京日本"))
    assert len(one) > 1
    assert one & other


def test_characters_in_pieces_still_make_words() -> None:
    assert hashes(ByteTokenizer(), "été", "été à", "ete")[0] == hashes(ByteTokenizer(), "été à")[0][:1]
    assert hashes(ByteTokenizer(), "été") != hashes(ByteTokenizer(), "ete")


def word_level(path: Path, *vocabulary: str) -> Tokenizer:
    """A tokenizer that knows these words and nothing else; what it does not know has no token."""
    model = tokenizers.models.WordLevel({word: id for id, word in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    return load_tokenizer(path / "tokenizer.json")


def test_a_vocabulary_of_words_need_not_have_an_a(tmp_path: Path) -> None:
    tokenizer = word_level(tmp_path, "[UNK]", "<|endoftext|>", "Whale", "ship", "ships", ",")
    assert tokenizer.decode(tokenizer.encode("a")) == ""
    assert hashes(tokenizer, "ship, Whale ships") == hashes(ByteTokenizer(), "ship, whale ships")


def test_a_vocabulary_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a tokenizer with tokens that decode to text, got 2 tokens that"):
        WordTable.of(word_level(tmp_path, "[UNK]", "<|endoftext|>"))
