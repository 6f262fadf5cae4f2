"""SentencePiece .model files, through the sentencepiece package: no other reader gives the same ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from retrolit.storage import atomic_write, write_json
from retrolit.tokens.tokenizer import END_OF_DOCUMENT, eos_token_beside, to_utf8

FILE_NAME = "tokenizer.model"


class SentencePieceTokenizer:
    """A SentencePiece model; documents end in its </s>, or in <|endoftext|> when it has no </s>, and nothing is put
    in front (Megatron's GPTSentencePieceTokenizer).

    Most such models normalize text (Unicode forms, repeated spaces), so decode(encode(text)) may differ from text.
    """

    def __init__(self, content: bytes, eod_token: str | None = None, path: Path | None = None) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ValueError(
                'a SentencePiece .model needs the package sentencepiece: pip install "retrolit[sentencepiece]"'
            ) from error
        self._content = content
        self._eod_token = eod_token
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise ValueError(f"{path}: expected a SentencePiece .model, got something else") from error
        self.vocab_size: int = self._processor.vocab_size()
        self.eod_id = self._find_eod(path)
        pieces = self._processor.id_to_piece(list(range(self.vocab_size)))
        self.special_tokens = {piece: i for i, piece in enumerate(pieces) if self._processor.is_control(i)}
        self.fingerprint = hashlib.sha256(content + b"%d" % self.eod_id).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            to_utf8(text)
        return self._processor.encode(list(texts), num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids if i != self.eod_id])

    def save(self, folder: str | Path) -> None:
        with atomic_write(Path(folder) / FILE_NAME) as file:
            file.write(self._content)
        if self._eod_token is not None:
            write_json(Path(folder) / "tokenizer_config.json", {"eos_token": self._eod_token})

    def __reduce__(self) -> tuple:
        return SentencePieceTokenizer, (self._content, self._eod_token)

    def _find_eod(self, path: Path | None) -> int:
        if self._eod_token is None and self._processor.eos_id() >= 0:
            return self._processor.eos_id()
        token = self._eod_token or END_OF_DOCUMENT
        found = self._processor.piece_to_id(token)
        if self._processor.id_to_piece(found) != token or not self._processor.is_control(found):
            raise ValueError(
                f"{path}: expected a control piece {token!r} to close documents (one that no text can spell), got "
                f"none; name another as tokenizer.eod_token"
            )
        return found


def load_sentencepiece(path: Path, eod_token: str | None = None) -> SentencePieceTokenizer:
    """The SentencePiece model in a .model file. Raises ValueError when it is none, or the package is missing."""
    return SentencePieceTokenizer(path.read_bytes(), eod_token or eos_token_beside(path), path)
