"""prefix.sources: where each document of a token store came from, one short text a document, memory-mapped.

The texts in UTF-8 one after the other, then N + 1 uint64 offsets into them, then b"RETROSRC" and uint64 documents N.
The table stands at the end so that a writer needs no more memory than eight bytes a document.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = b"RETROSRC"
FOOTER = struct.Struct("<8sQ")


class SourceTable:
    """`table[i]` is the source of document i. Raises ValueError when the file is not for `num_documents`."""

    def __init__(self, path: Path, num_documents: int) -> None:
        raw = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        table = len(raw) - FOOTER.size - 8 * (num_documents + 1)
        if table < 0 or raw[-FOOTER.size :].tobytes() != FOOTER.pack(MAGIC, num_documents):
            raise ValueError(f"{path}: expected the sources of {num_documents:,} documents, got something else")
        self._texts = raw[:table]
        self._offsets = raw[table : -FOOTER.size].view("<u8")

    def __getitem__(self, document: int) -> str:
        return self._texts[self._offsets[document] : self._offsets[document + 1]].tobytes().decode()


class SourceWriter:
    """Writes a source table to a binary file: `add` for documents in order, then `close`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lengths = [np.zeros(1, "<u8")]

    def add(self, sources: Sequence[str]) -> None:
        encoded = [source.encode(errors="replace") for source in sources]
        self._file.writelines(encoded)
        self._lengths.append(np.array([len(source) for source in encoded], "<u8"))

    def close(self) -> None:
        """Writes the table; the file stays open, it is the caller's."""
        offsets = np.cumsum(np.concatenate(self._lengths), dtype="<u8")
        self._file.write(offsets.tobytes())
        self._file.write(FOOTER.pack(MAGIC, len(offsets) - 1))
