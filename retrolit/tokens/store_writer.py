"""Writing a token store: the counterpart of `store.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from retrolit.storage import atomic_write
from retrolit.tokens.sources import SourceWriter
from retrolit.tokens.store import DTYPE_CODES, HEADER, MAGIC, suffixed, token_dtype


class StoreWriter:
    """Writes `prefix`.bin, .idx and .sources, document by document, as the context manager it is.

    The files appear when the block ends, the index last; none appears when it raises. Memory: 20 bytes a document.
    """

    def __init__(self, prefix: str | Path, vocab_size: int) -> None:
        self.dtype = token_dtype(vocab_size)
        self._prefix = prefix
        self._vocab_size = vocab_size
        self._lengths: list[np.ndarray] = []
        self._files = ExitStack()

    def __enter__(self) -> StoreWriter:
        with self._files as files:  # closes what is open already when a later one fails
            self._bin = files.enter_context(atomic_write(suffixed(self._prefix, ".bin")))
            self._sources = SourceWriter(files.enter_context(atomic_write(suffixed(self._prefix, ".sources"))))
            self._files = files.pop_all()
        return self

    def add(self, tokens: np.ndarray, lengths: np.ndarray, sources: Sequence[str]) -> None:
        """Appends several documents: their ids one after the other, (sum of lengths,), and how many each has.

        Raises ValueError for ids outside the vocabulary: a store never wraps one round.
        """
        assert len(lengths) == len(sources), (len(lengths), len(sources))
        assert len(tokens) == lengths.sum(), (len(tokens), lengths.sum())
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._vocab_size:
            raise ValueError(
                f"{self._prefix}: expected ids from 0 to {self._vocab_size - 1}, got {tokens.min()} to {tokens.max()}; "
                f"the tokenizer's vocab_size is wrong"
            )
        if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
            raise ValueError(f"{self._prefix}: a document has {lengths.max():,} tokens, the format holds 2,147,483,647")
        self._bin.write(np.ascontiguousarray(tokens, self.dtype).tobytes())
        self._lengths.append(lengths.astype("<i4"))
        self._sources.add(sources)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            return self._files.__exit__(kind, error, trace)
        with self._files:
            self._sources.close()
        with atomic_write(suffixed(self._prefix, ".idx")) as file:
            self._write_index(file)
        return None

    def _write_index(self, file) -> None:
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, "<i4")
        offsets = np.zeros(len(lengths), "<i8")
        np.cumsum(lengths[:-1], dtype="<i8", out=offsets[1:])
        code = next(code for code, dtype in DTYPE_CODES.items() if dtype == self.dtype)
        file.write(HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
        file.write(lengths.tobytes())
        file.write((offsets * self.dtype.itemsize).tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


def write_store(
    prefix: str | Path, documents: Iterable[Sequence[int]], vocab_size: int, sources: Iterable[str] | None = None
) -> None:
    """Writes a store of these documents, each a sequence of ids that ends in the end-of-document id."""
    names = iter(sources) if sources is not None else None
    with StoreWriter(prefix, vocab_size) as writer:
        for number, ids in enumerate(documents):
            source = next(names) if names is not None else f"document {number}"
            writer.add(np.asarray(ids, np.int64), np.array([len(ids)]), [source])
