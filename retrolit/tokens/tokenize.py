"""Tokenizing a corpus: documents -> blocks -> the token stores of its splits.

The documents are read once, as a stream, and grouped into blocks of about BLOCK_CHARACTERS; blocks that exist already
are skipped (reading is far faster than tokenizing). Then one process joins the blocks into the stores.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from retrolit.storage.blocks import Arrays, block_path, read_block
from retrolit.tokens.config import SPLITS
from retrolit.tokens.readers import Document
from retrolit.tokens.splits import assign_splits, text_hash
from retrolit.tokens.store import TokenStore, content_hashes, token_dtype
from retrolit.tokens.store_writer import StoreWriter
from retrolit.tokens.tokenizer import Tokenizer

BLOCK_CHARACTERS = 8_000_000
BATCH_CHARACTERS = 1_000_000  # what `tokenizers` keeps while it works is a hundred times as large

DATABASE = "database"
"""Name of the store of a database-only corpus."""

Record = TypeVar("Record")


def group(records: Iterable[Record], characters: int, size: Callable[[Record], int]) -> Iterator[list[Record]]:
    """Consecutive records, together at least so many characters, the last group perhaps fewer."""
    together: list[Record] = []
    count = 0
    for record in records:
        together.append(record)
        count += size(record)
        if count >= characters:
            yield together
            together, count = [], 0
    if together:
        yield together


def text_length(document: Document) -> int:
    """In characters."""
    return len(document.text)


class Tokenizing:
    """Makes one block of a group of documents; travels to the worker processes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, documents: list[Document]) -> Arrays:
        """`tokens` of all documents, each closed by the end-of-document id; and for each document its `lengths` in
        tokens, its `text_bytes`, the `hashes` of its text, and its source in `sources`, `source_bytes` long.
        """
        if multiprocessing.parent_process() is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one of several processes: threads would only collide
        tokens, lengths = zip(*map(self._encode, group(documents, BATCH_CHARACTERS, text_length)), strict=True)
        texts = [document.text.encode() for document in documents]
        sources = [document.source.encode(errors="replace") for document in documents]
        return {
            "tokens": np.concatenate(tokens),
            "lengths": np.concatenate(lengths),
            "text_bytes": np.array([len(text) for text in texts], np.int64),
            "hashes": np.array([text_hash(text) for text in texts], np.uint64),
            "sources": np.frombuffer(b"".join(sources), np.uint8),
            "source_bytes": np.array([len(source) for source in sources], np.int64),
        }

    def _encode(self, documents: list[Document]) -> tuple[np.ndarray, np.ndarray]:
        ids = self._tokenizer.encode_batch([document.text for document in documents])
        for document_ids in ids:
            document_ids.append(self._tokenizer.eod_id)
        lengths = np.array([len(document_ids) for document_ids in ids], np.int64)
        dtype = token_dtype(self._tokenizer.vocab_size)
        return np.fromiter(chain.from_iterable(ids), dtype, int(lengths.sum())), lengths


def join_blocks(
    blocks: Path,
    count: int,
    folder: Path,
    *,
    vocab_size: int,
    shares: dict[str, float],
) -> dict[str, Any]:
    """Writes train, validation and test stores from blocks 0 to `count`; returns the counts for the manifest.

    Memory: eight bytes a document to count exact duplicates, and the stores' own indexes.
    """
    return _join(blocks, count, folder, vocab_size, SPLITS, lambda block: assign_splits(block["hashes"], shares))


def join_database(
    blocks: Path, count: int, folder: Path, *, vocab_size: int, evaluated: Sequence[Path]
) -> dict[str, Any]:
    """Writes one store, `database`, from blocks 0 to `count`; returns the counts for the manifest.

    Documents that are, token for token, one of the stores at the prefixes `evaluated` are left out, and counted as
    `evaluation_documents`. Memory: as `join_blocks`, and eight bytes a document of these stores.
    """
    stores = [TokenStore(prefix) for prefix in evaluated]
    known = [content_hashes(store.tokens, store.document_starts) for store in stores]
    left_out = np.unique(np.concatenate([np.empty(0, np.uint64), *known]))
    counted = Counter[str]()

    def place(block: Arrays) -> np.ndarray:
        found = np.isin(content_hashes(block["tokens"], np.append(0, np.cumsum(block["lengths"]))), left_out)
        counted["evaluation_documents"] += int(found.sum())
        return found.astype(np.int8)  # 0: the first store; there is none for the others

    return _join(blocks, count, folder, vocab_size, [DATABASE], place) | {
        "evaluation_documents": counted["evaluation_documents"]
    }


def _join(
    blocks: Path,
    count: int,
    folder: Path,
    vocab_size: int,
    names: Sequence[str],
    place: Callable[[Arrays], np.ndarray],
) -> dict[str, Any]:
    """Writes stores of these names; `place` says of each document of a block the number of its store."""
    sizes: dict[str, Counter[str]] = {name: Counter(documents=0, tokens=0, bytes=0) for name in names}
    hashes = [np.empty(0, np.uint64)]
    with ExitStack() as files:
        writers = [files.enter_context(StoreWriter(folder / name, vocab_size)) for name in names]
        for number in range(count):
            block = read_block(block_path(blocks, number))
            hashes.append(block["hashes"])
            store_of = place(block)
            sources = cut_texts(block["sources"].tobytes(), block["source_bytes"])
            for number_of_store, (name, writer) in enumerate(zip(names, writers, strict=True)):
                mine = store_of == number_of_store
                lengths = block["lengths"][mine]
                tokens = block["tokens"][np.repeat(mine, block["lengths"])]
                writer.add(tokens, lengths, [sources[i] for i in np.flatnonzero(mine)])
                text_bytes = int(block["text_bytes"][mine].sum())
                sizes[name].update(documents=len(lengths), tokens=len(tokens), bytes=text_bytes)
    seen = np.concatenate(hashes)
    return {**{name: dict(counts) for name, counts in sizes.items()}, "duplicates": len(seen) - len(np.unique(seen))}


def cut_texts(content: bytes, lengths: np.ndarray) -> list[str]:
    """The texts of these lengths in bytes that stand one after the other."""
    ends = np.cumsum(lengths)
    return [content[end - length : end].decode() for end, length in zip(ends, lengths, strict=True)]
