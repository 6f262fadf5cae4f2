"""Text from tokens that come one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from retrolit.generation.text import TextStream
from retrolit.tokens import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe

TOKENIZER = ByteTokenizer()


def pieces_of(tokens: Sequence[int], stop: Sequence[str] = (), prompt: str = "") -> list[str]:
    stream = TextStream(TOKENIZER, TOKENIZER.encode(prompt), stop)
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("text", ["plain", "naïve café", "€ ∑ 漢字", "👩‍👩‍👧 🎉!", "a\x00b\r\n", "\ufffd kept \ufffd"])
@pytest.mark.parametrize("prompt", ["", "before: ", "é"])
def test_the_pieces_are_the_text_and_no_half_characters(text: str, prompt: str) -> None:
    pieces = pieces_of(TOKENIZER.encode(text), prompt=prompt)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces[:-1])


def test_a_character_is_given_with_its_last_byte() -> None:
    assert pieces_of(TOKENIZER.encode("a€b")) == ["a", "", "", "€", "b", ""]


def test_bytes_that_are_no_text_are_replaced_as_the_tokenizer_does() -> None:
    random.seed(0)
    for _ in range(200):
        tokens = [random.choice([65, 0x80, 0xA9, 0xC3, 0xE2, 0xF0, 0x9F, 0xFF]) for _ in range(20)]
        assert "".join(pieces_of(tokens)) == TOKENIZER.decode(tokens)


def test_an_incomplete_end_is_given_at_the_finish() -> None:
    assert pieces_of([65, 0xE2, 0x82]) == ["A", "", "", "\ufffd"]


def test_text_ends_before_a_stop_text_of_which_nothing_was_given() -> None:
    pieces = pieces_of(TOKENIZER.encode("one\n\ntwo"), stop=["\n\n"])
    assert pieces == ["o", "n", "e", "", "", ""]


def test_what_only_began_like_a_stop_text_is_given_later() -> None:
    assert pieces_of(TOKENIZER.encode("a\nb"), stop=["\n\n"]) == ["a", "", "\nb", ""]
    assert pieces_of(TOKENIZER.encode("a\n"), stop=["\n\n"]) == ["a", "", "\n"]


@pytest.mark.parametrize("stop", [["aab"], ["ba", "ab"], ["€"], ["a", "aa"], ["é€"]])
def test_against_a_search_after_every_token(stop: list[str]) -> None:
    """The text ends where the first stop text to be complete begins; the pieces never say more."""
    random.seed(1)
    for _ in range(100):
        text = "".join(random.choice("aabé€") for _ in range(12))
        ends = [end for end in range(len(text) + 1) if any(s in text[:end] for s in stop)]
        complete = text[: ends[0]] if ends else text
        expected = complete[: min(complete.find(s) for s in stop if s in complete)] if ends else text
        assert "".join(pieces_of(TOKENIZER.encode(text), stop)) == expected


def test_a_stop_text_in_the_prompt_or_across_its_end_does_not_count() -> None:
    assert "".join(pieces_of(TOKENIZER.encode("\nb"), stop=["\n\n"], prompt="\n\na\n")) == "\nb"


SENTENCES = [f"the owl number {n} flies at night, naïve as {n * n} owls" for n in range(300)]
ODD_TEXT = "the owl € 👩‍👩‍👧 漢字 flies\n  at night"


def sentencepiece_tokenizer(folder: Path) -> Tokenizer:
    """Writes a space before every word but a text's first, and characters it does not know as bytes."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(folder / "owls"), vocab_size=340, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return load_tokenizer(folder / "owls.model")


def bpe_tokenizer(folder: Path) -> Tokenizer:
    return train_bpe(SENTENCES, vocab_size=300)


@pytest.mark.parametrize("make", [sentencepiece_tokenizer, bpe_tokenizer])
def test_prompt_and_pieces_are_the_text_of_all_tokens(make: Callable[[Path], Tokenizer], tmp_path: Path) -> None:
    """Wherever the prompt ends, spaces between words too."""
    tokenizer = make(tmp_path)
    tokens = tokenizer.encode(ODD_TEXT)
    whole = tokenizer.decode(tokens)
    borders = [n for n in range(len(tokens)) if whole.startswith(tokenizer.decode(tokens[:n]))]
    assert len(borders) > 5
    for border in borders:
        stream = TextStream(tokenizer, tokens[:border], [])
        pieces = [*(stream.push(token) for token in tokens[border:]), stream.finish()]
        assert tokenizer.decode(tokens[:border]) + "".join(pieces) == whole
        assert "\ufffd" not in "".join(pieces)
