"""A token store: the documents of one split as token ids, in Megatron's .bin / .idx format, byte for byte.

    prefix.bin       all token ids, one after the other: the *stream*, each document closed by its end-of-document id
    prefix.idx       little-endian: b"MMIDIDX\\0\\0", uint64 version 1, uint8 code of the ids' type,
                     uint64 sequences S, uint64 documents + 1, S int32 lengths, S int64 byte offsets into .bin,
                     documents + 1 int64 numbers of the first sequence of each document
    prefix.sources   ours, optional: where each document came from (see `sources.py`)

A document is one sequence or several (Megatron's sentence splitting); we write one. Files are only ever opened for
reading.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from retrolit.storage import Manifest
from retrolit.storage.files import sha256_file
from retrolit.tokens.sources import SourceTable

MAGIC = b"MMIDIDX\0\0"
HEADER = struct.Struct("<9sQBQQ")
DTYPE_CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


def token_dtype(vocab_size: int) -> np.dtype:
    """The type of the ids on disk: uint16 for vocabularies below 65,500, else int32, as Megatron chooses."""
    return np.dtype(np.uint16 if vocab_size < 65_500 else np.int32)


class TokenStore:
    """The documents at `prefix`.bin / .idx: `len(store)` documents, `store[i]` the ids of one.

    Raises FileNotFoundError when a file is missing and ValueError when the two do not fit each other.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        bin_path, idx_path = suffixed(prefix, ".bin"), suffixed(prefix, ".idx")
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: expected a token store (.bin and .idx side by side), got no such file"
                )
        self.dtype, self._lengths, self._offsets, self._documents = _read_index(idx_path)
        end = int(self._offsets[-1]) // self.dtype.itemsize + int(self._lengths[-1]) if len(self._lengths) else 0
        self.num_tokens = end
        expected = self.num_tokens * self.dtype.itemsize
        if bin_path.stat().st_size != expected:
            raise ValueError(
                f"{bin_path}: expected {expected:,} bytes as {idx_path.name} says, got {bin_path.stat().st_size:,}; "
                f"the file is cut off or belongs to another index"
            )
        self.tokens = np.memmap(bin_path, self.dtype, mode="r") if expected else np.empty(0, self.dtype)  # (tokens,)
        sources_path = suffixed(prefix, ".sources")
        self._sources = SourceTable(sources_path, len(self)) if sources_path.is_file() else None

    def __len__(self) -> int:
        return len(self._documents) - 1

    def __getitem__(self, document: int) -> np.ndarray:
        """The ids of one document, its closing end-of-document id included: a read-only view, (length,)."""
        if not -len(self) <= document < len(self):
            raise IndexError(f"document {document} of {len(self)} in {self.prefix}")
        document %= len(self)
        return self.tokens[self._start(document) : self._start(document + 1)]

    def __reduce__(self) -> tuple:
        return TokenStore, (self.prefix,)  # a worker process opens the files anew

    @cached_property
    def document_starts(self) -> np.ndarray:
        """Where each document starts in the stream, and the stream's end: int64, (documents + 1,)."""
        starts = np.append(self._offsets, self.num_tokens * self.dtype.itemsize) // self.dtype.itemsize
        return starts if len(starts) == len(self._documents) else starts[self._documents]

    def source(self, document: int) -> str:
        """Where a document came from, for people: "wiki.jsonl:17", or "document 17" when the store does not know."""
        return self._sources[document] if self._sources is not None else f"document {document}"

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over the contents of .bin and .idx: from the manifest beside them, else computed."""
        names = (self.prefix.name + ".bin", self.prefix.name + ".idx")
        try:
            files = Manifest.read(self.prefix.parent, "tokens").files
            checksums = [files[name]["sha256"] for name in names]
        except (FileNotFoundError, ValueError, KeyError):  # a store that Megatron wrote
            checksums = [sha256_file(self.prefix.parent / name) for name in names]
        return hashlib.sha256("".join(checksums).encode()).hexdigest()

    def _start(self, document: int) -> int:
        sequence = int(self._documents[document])
        if sequence == len(self._offsets):
            return self.num_tokens
        return int(self._offsets[sequence]) // self.dtype.itemsize


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """Type of the ids, lengths (S,), byte offsets (S,) and first sequences of the documents (documents + 1,)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise ValueError(f"{path}: expected Megatron's index (it starts with MMIDIDX), got something else")
    _, version, code, num_sequences, num_bounds = HEADER.unpack(header)
    if version != 1:
        raise ValueError(f"{path}: expected version 1 of Megatron's index, got {version}")
    if code not in DTYPE_CODES:
        raise ValueError(f"{path}: expected a type code of whole numbers ({sorted(DTYPE_CODES)}), got {code}")
    expected = HEADER.size + 12 * num_sequences + 8 * num_bounds
    # A multimodal index has one more byte a sequence at the end.
    if num_bounds < 1 or size not in (expected, expected + num_sequences):
        raise ValueError(f"{path}: expected {expected:,} bytes for {num_sequences:,} sequences, got {size:,}")
    raw = np.memmap(path, np.uint8, mode="r")
    lengths_end = HEADER.size + 4 * num_sequences
    offsets_end = lengths_end + 8 * num_sequences
    documents = raw[offsets_end:expected].view("<i8")
    if documents[0] != 0 or documents[-1] != num_sequences:
        raise ValueError(f"{path}: its documents do not cover its {num_sequences:,} sequences; the file is damaged")
    return (
        np.dtype(DTYPE_CODES[code]),
        raw[HEADER.size : lengths_end].view("<i4"),
        raw[lengths_end:offsets_end].view("<i8"),
        documents,
    )


def content_hashes(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Eight bytes of a hash of each document's ids, as of a store's `tokens` and `document_starts`: uint64
    (documents,)."""
    hashes = np.empty(len(starts) - 1, np.uint64)
    tokens = np.asarray(tokens)
    for number, (start, end) in enumerate(pairwise(starts.tolist())):
        digest = hashlib.blake2b(tokens[start:end].data, digest_size=8).digest()
        hashes[number] = int.from_bytes(digest, "little")
    return hashes


def suffixed(prefix: str | Path, suffix: str) -> Path:
    """prefix + suffix as a path; a dot in the prefix is part of the name."""
    return Path(f"{prefix}{suffix}")
