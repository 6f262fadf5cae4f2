"""What a tokenizer is, the simplest one, and how any of them is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from retrolit.storage import read_json, write_json

END_OF_DOCUMENT = "<|endoftext|>"

BYTES_FILE = "retrolit_tokenizer.json"


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

    def encode(self, text: str) -> list[int]:
        return list(to_utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(to_utf8(text)) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are no UTF-8 (a model may write some) become U+FFFD."""
        return bytes(i for i in ids if i < self.eod_id).decode(errors="replace")

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / BYTES_FILE, {"type": "bytes", "version": 1})


def to_utf8(text: str) -> bytes:
    """The text's UTF-8. Raises ValueError for a lone surrogate, which no UTF-8 can hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start}), which UTF-8 "
            f"cannot write; it comes from a broken escape in the source: mend or drop it"
        ) from None


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder. Raises FileNotFoundError or ValueError."""
    path = Path(path)
    if (path / BYTES_FILE).is_file():
        return _load_bytes(path / BYTES_FILE)
    raise FileNotFoundError(f"{path}: no tokenizer here")


def _load_bytes(path: Path) -> ByteTokenizer:
    content = read_json(path)
    if content != {"type": "bytes", "version": 1}:
        raise ValueError(f"{path}: expected the byte tokenizer, version 1, got {content}")
    return ByteTokenizer()
