"""Tokenizers of the `tokenizers` library: tokenizer.json, GPT-2's files, and the byte-level BPE we train."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from retrolit.storage import atomic_write, write_json
from retrolit.tokens.tokenizer import END_OF_DOCUMENT, eos_token_beside, to_utf8

# The token that closes a document, when neither the caller nor tokenizer_config.json names it: the first of these.
USUAL_EOD_TOKENS = (END_OF_DOCUMENT, "</s>", "<|end_of_text|>", "<eos>", "<|eos|>")

BEFORE_SPACE = re.compile(r"(?<=\S)[ \t\r\n]")
BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")

SMALLEST_BPE = 256 + 1  # every byte, and the end of a document


class BPETokenizer:
    """A tokenizer described by the text of a tokenizer.json, which is kept and saved as it came."""

    def __init__(self, content: str, eod_token: str, parsed: tokenizers.Tokenizer | None = None) -> None:
        """`parsed` is what the library makes of `content`, where that was done before."""
        self._content = content
        self.eod_token = eod_token
        self._tokenizer = parsed or tokenizers.Tokenizer.from_str(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Marked as special, and special tokens are never read from text: no document can forge its own end.
        self._tokenizer.add_special_tokens([eod_token])
        self._tokenizer.encode_special_tokens = True
        eod_id = self._tokenizer.token_to_id(eod_token)
        assert eod_id is not None
        self.eod_id = eod_id
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token.content: i for i, token in added.items() if token.special}
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.fingerprint = hashlib.sha256(json.dumps([content, eod_token]).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # the library's word for a text that is no Unicode
            for text in texts:
                to_utf8(text)
            raise
        return [encoding.ids for encoding in encodings]

    @cached_property
    def spaces_begin_words(self) -> bool:
        """Whether any text can be cut before white space that follows another character: both parts have by themselves
        the ids that they have together.

        So it is with GPT-2's way to divide a text into words, in which white space only ever begins one; here it is
        known of that way alone.
        """
        words, added = self._tokenizer.pre_tokenizer, self._tokenizer.get_added_tokens_decoder().values()
        if words is None or self._tokenizer.normalizer is not None or not all(token.special for token in added):
            return False
        settings = json.loads(words.__getstate__())
        return settings["type"] == "ByteLevel" and settings["use_regex"] and not settings["add_prefix_space"]

    def seam(self, text: str) -> int:
        """A place in the text where it can be cut: whatever follows the text, both parts have by themselves the ids
        that they have together. 0 where there is none.

        It lies between two words, which no token joins, and so far before the end that nothing behind the text reaches
        it: not the words that it may lengthen, not a token that is read as a whole ("added" to the vocabulary).
        """
        if self.spaces_begin_words:
            return max((space.start() for space in BEFORE_SPACE.finditer(text)), default=0)
        normalizer = self._tokenizer.normalizer
        if self._tokenizer.pre_tokenizer is None or (normalizer and normalizer.normalize_str(text) != text):
            return 0
        added = self._tokenizer.get_added_tokens_decoder().values()
        far = max([16, *(len(token.content) for token in added if not token.special)])
        words = {begin for _, (begin, _) in self._tokenizer.pre_tokenizer.pre_tokenize_str(text)}
        places = [space.start() for space in BETWEEN_WORDS.finditer(text, 0, max(0, len(text) - far))]
        place = max(words.intersection(places), default=0)
        both, before, behind = self.encode_batch([text, text[:place], text[place:]])
        # Not so where a tokenizer puts something in front of every text.
        return place if both == before + behind else 0

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as transformers' AutoTokenizer reads them too."""
        with atomic_write(Path(folder) / "tokenizer.json") as file:
            file.write(self._content.encode())
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.eod_token}
        write_json(Path(folder) / "tokenizer_config.json", config)

    def with_special_tokens(self, tokens: Sequence[str]) -> BPETokenizer:
        """The same with more tokens that no text can spell; those it lacks get the next free ids."""
        longer = tokenizers.Tokenizer.from_str(self._content)
        longer.add_special_tokens([*tokens])
        return BPETokenizer(longer.to_str(), self.eod_token)

    def __reduce__(self) -> tuple:
        return BPETokenizer, (self._content, self.eod_token)


def load_tokenizer_json(path: Path, eod_token: str | None = None) -> BPETokenizer:
    """The tokenizer in a tokenizer.json. Raises ValueError when it is none, or its end-of-document token is unknown."""
    content = path.read_bytes().decode(errors="replace")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path}: expected a tokenizer.json of Hugging Face's tokenizers library ({error})") from error
    if eod_token is None:
        eod_token = eos_token_beside(path)
    return BPETokenizer(content, _check_eod(tokenizer, eod_token, path), tokenizer)


def load_gpt2_files(vocab: Path, merges: Path, eod_token: str | None = None) -> BPETokenizer:
    """GPT-2's byte-level BPE from vocab.json and merges.txt; its <|endoftext|>, a mere word there, is special here."""
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{vocab}, {merges}: expected GPT-2's vocabulary and merges ({error})") from error
    _make_byte_level(tokenizer)
    eod_token = _check_eod(tokenizer, eod_token, vocab)
    tokenizer.add_special_tokens([eod_token])
    return BPETokenizer(tokenizer.to_str(), eod_token)


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> BPETokenizer:
    """A byte-level BPE of exactly `vocab_size` ids, learned from these texts; <|endoftext|> is id 0,
    and `special_tokens`, which no text can spell, come next.

    Any text can be encoded: the 256 bytes are in the vocabulary. Raises ValueError when the texts are too few to learn
    that many merges.
    """
    specials = [END_OF_DOCUMENT, *special_tokens]
    smallest = 256 + len(specials)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size: expected at least {smallest} (256 bytes and {', '.join(specials)}), got {vocab_size}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    _make_byte_level(tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise ValueError(
            f"vocab_size: expected {vocab_size}, but the train documents give only {tokenizer.get_vocab_size()} "
            f"tokens; ask for fewer or bring more text"
        )
    return BPETokenizer(tokenizer.to_str(), END_OF_DOCUMENT)


def _make_byte_level(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()


def _check_eod(tokenizer: tokenizers.Tokenizer, eod_token: str | None, path: Path) -> str:
    known = tokenizer.get_vocab(with_added_tokens=True)
    if eod_token is not None:
        if eod_token not in known:
            raise ValueError(f"{path}: expected {eod_token!r} in the vocabulary to close documents, it is not there")
        return eod_token
    for token in USUAL_EOD_TOKENS:
        if token in known:
            return token
    special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
    raise ValueError(
        f"{path}: which token closes a document? Expected one of {', '.join(USUAL_EOD_TOKENS)}; its special tokens are "
        f"{', '.join(special) or 'none'}; name one as tokenizer.eod_token"
    )
