"""What a tokenizer is, the simplest one, and how any of them is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from retrolit.storage import read_json, write_json

END_OF_DOCUMENT = "<|endoftext|>"

BYTES_FILE = "retrolit_tokenizer.json"
BYTES_CONTENT = {"type": "bytes", "version": 1}


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    `encode` reads text as plain text: no id is added, and text that spells a special token ("<|endoftext|>") stays
    text. `decode` leaves special tokens out.
    """

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def eod_id(self) -> int:
        """The id that closes a document; `encode` never returns it."""
        ...

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text -> id of the tokens that `encode` never returns, `eod_id` among them."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits; two tokenizers with the same one give the same ids."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode` for each text, and the fast way."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load_tokenizer(folder)` reads."""
        ...


class ByteTokenizer:
    """One id for each byte of UTF-8 (0 to 255), and 256 for the end of a document. Needs no training and no file."""

    vocab_size = 257
    eod_id = 256
    fingerprint = hashlib.sha256(b"retrolit bytes 1").hexdigest()

    @property
    def special_tokens(self) -> dict[str, int]:
        return {END_OF_DOCUMENT: self.eod_id}

    def encode(self, text: str) -> list[int]:
        return list(to_utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(to_utf8(text)) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are no UTF-8 (a model may write some) become U+FFFD."""
        return bytes(i for i in ids if i < self.eod_id).decode(errors="replace")

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / BYTES_FILE, BYTES_CONTENT)


def to_utf8(text: str) -> bytes:
    """The text's UTF-8. Raises ValueError for a lone surrogate, which no UTF-8 can hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start}), which UTF-8 "
            f"cannot write; it comes from a broken escape in the source: mend or drop it"
        ) from None


def keeps_text(tokenizer: Tokenizer) -> bool:
    """Whether decode(encode(text)) gives back a text with capitals, accents, odd spaces and pictures."""
    probe = "Two  spaces,\ttabs\n\nand lines; ÀÉÎ, ﬁ, ½, 東京, 🦉, \u00a0, (NUL \0)"
    return tokenizer.decode(tokenizer.encode(probe)) == probe


def load_tokenizer(path: str | Path, eod_token: str | None = None) -> Tokenizer:
    """The tokenizer in a folder (a model folder, too) or file; what it is follows from the files' names.

    tokenizer.json (Hugging Face), vocab.json + merges.txt (GPT-2), a .model file (SentencePiece), or the byte
    tokenizer's own file. `eod_token` names the token that closes a document where the files do not say which.
    Raises FileNotFoundError when there is none, ValueError when the file is something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a tokenizer's folder or file, got nothing there")
    if path.is_file():
        return _load_file(path, eod_token)
    models = sorted(path.glob("*.model"))
    if (path / BYTES_FILE).is_file():
        return _load_file(path / BYTES_FILE, eod_token)
    if (path / "tokenizer.json").is_file():
        return _load_file(path / "tokenizer.json", eod_token)
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        from retrolit.tokens.bpe import load_gpt2_files

        return load_gpt2_files(path / "vocab.json", path / "merges.txt", eod_token)
    if len(models) == 1:
        return _load_file(models[0], eod_token)
    found = f"{len(models)} .model files: name one" if models else "none of them"
    raise FileNotFoundError(
        f"{path}: expected {BYTES_FILE}, tokenizer.json, vocab.json + merges.txt or a SentencePiece .model, got {found}"
    )


def eos_token_beside(path: Path) -> str | None:
    """The eos_token of the tokenizer_config.json beside a tokenizer's file, where there is one."""
    config = path.with_name("tokenizer_config.json")
    token = read_json(config).get("eos_token") if config.is_file() else None
    return token["content"] if isinstance(token, dict) else token


def _load_file(path: Path, eod_token: str | None) -> Tokenizer:
    if path.name == BYTES_FILE:
        content = read_json(path)
        if content != BYTES_CONTENT:
            raise ValueError(f"{path}: expected the byte tokenizer, version 1, got {content}")
        return ByteTokenizer()
    if path.suffix == ".json":
        from retrolit.tokens.bpe import load_tokenizer_json

        return load_tokenizer_json(path, eod_token)
    if path.suffix == ".model":
        from retrolit.tokens.spm import load_sentencepiece

        return load_sentencepiece(path, eod_token)
    raise ValueError(f"{path}: expected a tokenizer's .json or .model, got {path.suffix or 'no ending'}")
