"""Tokenizers: lossless, never forging the end of a document, and the same after saving."""

from __future__ import annotations

import builtins
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from retrolit.tokens import BPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer, train_bpe
from retrolit.tokens.config import TokenizerConfig
from retrolit.tokens.prepare_tokenizer import prepare_given_tokenizer

TEXTS = [
    "",
    "Hello world!",
    "two\n\nlines\r\n\ttabs   spaces ",
    "Grüße, 東京, 🦉👩🏽‍🚀",
    "NUL \0 and U+0085 \x85 and U+2028 \u2028",
    "A document may spell <|endoftext|> or </s> and stay text.",
    "x" * 10_000,
]
CORPUS = [f"The owl number {i} reads a book about {i * i} old stars, quietly." for i in range(500)]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(CORPUS, vocab_size=400)


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data/tokenizers/gpt2")


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra sentencepiece")
    prefix = tmp_path_factory.mktemp("spm") / "owls"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(prefix), vocab_size=120, byte_fallback=False, minloglevel=2
    )
    return prefix.with_suffix(".model")


@pytest.mark.parametrize("kind", ["bytes", "bpe", "gpt2"])
def test_text_comes_back_and_never_holds_the_end_of_document(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = ByteTokenizer() if kind == "bytes" else request.getfixturevalue(kind)
    assert isinstance(tokenizer, Tokenizer)
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert ids == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eod_id]) == text
        assert tokenizer.eod_id not in ids
        assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_lone_surrogate_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = ByteTokenizer() if kind == "bytes" else request.getfixturevalue(kind)
    with pytest.raises(ValueError, match=r"lone surrogate \(U\+D800 at character 3\)"):
        tokenizer.encode_batch(["fine", "abc\ud800"])


@pytest.mark.parametrize("kind", ["bytes", "bpe", "gpt2"])
def test_saved_is_loaded(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer = ByteTokenizer() if kind == "bytes" else request.getfixturevalue(kind)
    tokenizer.save(tmp_path)
    for again in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint
        assert (again.vocab_size, again.eod_id) == (tokenizer.vocab_size, tokenizer.eod_id)
        assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_gpt2s_ids(gpt2: Tokenizer) -> None:
    assert gpt2.encode("Hello world!") == [15496, 995, 0]
    assert (gpt2.eod_id, gpt2.vocab_size) == (50256, 50257)


def test_training_learns_and_is_reproducible(bpe: Tokenizer) -> None:
    assert bpe.vocab_size == 400
    assert train_bpe(CORPUS, 400).fingerprint == bpe.fingerprint
    assert train_bpe(CORPUS, 401).fingerprint != bpe.fingerprint
    assert len(bpe.encode(CORPUS[7])) < len(CORPUS[7]) / 3
    with pytest.raises(ValueError, match="expected at least 257"):
        train_bpe(CORPUS, 256)
    with pytest.raises(ValueError, match=r"expected 5000, but the train documents give only \d+ tokens"):
        train_bpe(CORPUS, 5000)


def test_the_end_of_document_token_is_found_or_asked_for(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert content["added_tokens"][0]["content"] == "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "owl"}}))
    renamed = json.loads(json.dumps(content).replace("<|endoftext|>", "<|stop|>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(renamed))
    with pytest.raises(ValueError, match="expected 'owl' in the vocabulary to close documents"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"its special tokens are <\|stop\|>; name one as tokenizer.eod_token"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, eod_token="<|stop|>").eod_id == 0


def test_an_end_of_document_that_was_not_special_becomes_it(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"][0]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eod_id == 0
    assert 0 not in tokenizer.encode("spelled <|endoftext|> out")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a tokenizer's folder or file"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"a SentencePiece \.model, got none of them"):
        load_tokenizer(tmp_path)
    for name, message in {
        "tokenizer.json": "expected a tokenizer.json of Hugging Face's",
        "retrolit_tokenizer.json": "expected the byte tokenizer, version 1",
        "x.txt": "expected a tokenizer's .json or .model, got .txt",
    }.items():
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path / name)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/vocab.json").write_text("{}")
    (tmp_path / "gpt2/merges.txt").write_text("a b\n")
    with pytest.raises(ValueError, match="expected GPT-2's vocabulary and merges"):
        load_tokenizer(tmp_path / "gpt2")


def test_sentencepiece_gives_its_own_ids(sentencepiece_file: Path, tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    reference = SentencePieceProcessor(model_file=str(sentencepiece_file))
    tokenizer = load_tokenizer(sentencepiece_file.parent)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode_batch(CORPUS[:50]) == [reference.encode(text) for text in CORPUS[:50]]
    assert tokenizer.decode([*tokenizer.encode(CORPUS[3]), tokenizer.eod_id]) == CORPUS[3]
    assert (tokenizer.eod_id, tokenizer.vocab_size) == (reference.eos_id(), 120)
    assert tokenizer.eod_id not in tokenizer.encode("spelled </s> out")
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == pickle.loads(pickle.dumps(tokenizer)).fingerprint
    assert load_tokenizer(tmp_path / "tokenizer.model").fingerprint == tokenizer.fingerprint
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("\udfff")


def test_sentencepieces_end_of_document_must_be_a_control_piece(sentencepiece_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a control piece 'owl' to close documents"):
        load_tokenizer(sentencepiece_file, eod_token="owl")
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eod_id == 1
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == tokenizer.fingerprint
    (tmp_path / "other.model").write_bytes(b"nonsense")
    with pytest.raises(FileNotFoundError, match=r"got 2 \.model files: name one"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"expected a SentencePiece \.model, got something else"):
        load_tokenizer(tmp_path / "other.model")


def test_sentencepiece_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    really_import = builtins.__import__

    def without_sentencepiece(name: str, *args: object, **kwargs: object) -> object:
        if name == "sentencepiece":
            raise ImportError(name)
        return really_import(name, *args, **kwargs)

    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without_sentencepiece)
    with pytest.raises(ValueError, match=r'pip install "retrolit\[sentencepiece\]"'):
        load_tokenizer(tmp_path)


def test_special_tokens_are_added_to_a_bpe_and_to_no_other(sentencepiece_file: Path, bpe: Tokenizer, tmp_path: Path):
    bpe.save(tmp_path / "bpe")
    added: dict[str, Any] = {"special_tokens": ["<end>"]}
    folder = prepare_given_tokenizer(TokenizerConfig("file", path=str(tmp_path / "bpe"), **added), tmp_path)
    assert load_tokenizer(folder).special_tokens["<end>"] == bpe.vocab_size
    for wanted in (TokenizerConfig("bytes", **added), TokenizerConfig("file", path=str(sentencepiece_file), **added)):
        with pytest.raises(
            ValueError, match=rf"tokenizer\.special_tokens: .*; {wanted.path or 'type bytes'} can get non"
        ):
            prepare_given_tokenizer(wanted, tmp_path)


BEGINNING = "System: Answers are polite, and helpful to the user's questions.\n\nUser:"


def changed(bpe: Tokenizer, **parts: Any) -> BPETokenizer:
    """The tokenizer with other parts."""
    assert isinstance(bpe, BPETokenizer)
    return BPETokenizer(json.dumps(json.loads(bpe._content) | parts), bpe.eod_token)


@pytest.mark.parametrize("kind", ["bpe", "gpt2", "prefix space", "metaspace"])
def test_what_follows_a_seam_has_the_same_ids_by_itself(kind: str, request: pytest.FixtureRequest) -> None:
    bpe: Any = request.getfixturevalue("gpt2" if kind == "gpt2" else "bpe")
    if kind == "prefix space":
        bpe = changed(bpe, pre_tokenizer=json.loads(bpe._content)["pre_tokenizer"] | {"add_prefix_space": True})
    elif kind == "metaspace":
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        bpe = changed(bpe, pre_tokenizer=metaspace)
    seam = bpe.seam(BEGINNING)
    assert bpe.spaces_begin_words == (kind in ("bpe", "gpt2"))
    assert BEGINNING[seam:].startswith("\n\nUser:" if bpe.spaces_begin_words else (" questions", " the", " to"))
    for behind in ("", " ", "\n", "\n\n", "s", "'s", " Hi", ":", "é", "\u0301", "<|endoftext|>", *TEXTS):
        both = bpe.encode(BEGINNING + behind)
        assert both == bpe.encode(BEGINNING[:seam]) + bpe.encode(BEGINNING[seam:] + behind)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_any_text_can_be_cut_before_the_space_behind_a_word(
    kind: str, seed: int, request: pytest.FixtureRequest
) -> None:
    """Of odd characters, every kind of white space among them; a cut elsewhere changes ids now and then."""
    bpe: BPETokenizer = request.getfixturevalue(kind)
    assert bpe.spaces_begin_words
    draw = random.Random(seed)
    signs = [
        *" \n\t\r\u00a0\u2003\u3000\u0085\x1c",
        *"aZ9'.:!,é\u0301東🦉-_",
        "'s",
        "'ll",
        "  ",
        "\n\n",
        "<|endoftext|>",
    ]
    changed_elsewhere = 0
    for _ in range(300):
        text = "".join(draw.choices(signs, k=12))
        for place in range(1, len(text)):
            same = bpe.encode(text) == bpe.encode(text[:place]) + bpe.encode(text[place:])
            if text[place] in " \n\t\r" and not text[place - 1].isspace():
                assert same, (text, place)
            changed_elsewhere += not same
    assert changed_elsewhere > 0


def test_there_is_no_seam_where_tokens_may_join_words(bpe: Any) -> None:
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False}
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": "_"}
    assert changed(bpe, pre_tokenizer=None).seam(BEGINNING) == 0
    assert changed(bpe, pre_tokenizer=split).seam(BEGINNING) > 0
    assert changed(bpe, pre_tokenizer=split, normalizer=replaced).seam(BEGINNING) == 0
    assert changed(bpe, pre_tokenizer=split).seam("Polite questions.") == 0
    # A token that is read as a whole may begin before the seam and end behind the text.
    entry = {"id": 400, "content": "the user's questions.\n\nUser: Hi", "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": False}  # fmt: skip
    longer = changed(bpe, added_tokens=[*json.loads(bpe._content)["added_tokens"], entry])
    assert not longer.spaces_begin_words
    assert longer.encode(BEGINNING + " Hi")[-1] == 400
    assert 0 < longer.seam(BEGINNING) < len(BEGINNING) - len(entry["content"])
