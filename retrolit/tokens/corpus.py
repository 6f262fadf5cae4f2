"""A corpus: a named stream of documents, read in the same order every time."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from retrolit.storage import fingerprint, sha256_file
from retrolit.tokens.config import CorpusConfig
from retrolit.tokens.readers import DOCUMENTS, BadRecord, Document, field_of, is_readable, read_file

BORDERS = ("\n\n", "\n", ". ", " ")
"""Where a long document is best cut, the best first."""

Record_co = TypeVar("Record_co", covariant=True)
"""What a corpus consists of: documents, or conversations."""


class Corpus(Protocol[Record_co]):
    """Documents, or other records, in a fixed order."""

    @property
    def size(self) -> int:
        """How much there is to read, in bytes."""
        ...

    def read(self) -> Iterator[Record_co | BadRecord]:
        """All of them from the first one on, and the records that are none."""
        ...

    def position(self) -> int:
        """How much of `size` the latest `read` has read."""
        ...

    def contents(self, known: Any) -> Any:
        """What the corpus consists of, in JSON's types, with checksums; `known` is what this gave an earlier time."""
        ...


def open_corpus(config: CorpusConfig) -> Corpus[Document]:
    """The corpus that `config.source` names. Raises FileNotFoundError or ValueError when there is none."""
    if config.source == "python-docs" or config.source.startswith("python-docs:"):
        from retrolit.tokens.python_docs import PythonDocs

        return PythonDocs(config.source)
    if config.source.startswith("hf:"):
        from retrolit.tokens.hf_datasets import HuggingFaceDataset

        return HuggingFaceDataset(config.source, lambda row, source: [field_of(row, config.text_field, source)])
    return FileCorpus(config.source, lambda file, name: read_file(file, name, config), DOCUMENTS)


def documents(corpus: Corpus[Document], config: CorpusConfig, skipped: Counter[str]) -> Iterator[Document]:
    """The documents of a corpus, cut where they are longer than `longest`. Empty ones are left out and counted in
    `skipped`, and so are bad records under `on_error: skip`; otherwise a bad record raises ValueError.
    """
    for record in corpus.read():
        if isinstance(record, BadRecord):
            leave_out(record, config.on_error, skipped)
        elif not record.text or record.text.isspace():
            skipped["empty document"] += 1
        elif config.longest is None:
            yield record
        else:
            yield from _parts(record, config.longest)


def _parts(document: Document, longest: int) -> Iterator[Document]:
    """The document in parts of at most `longest` characters, which joined are the whole; blank ones are left out."""
    text, start = document.text, 0
    while start < len(text):
        end = start + longest
        if end < len(text):
            borders = (text.rfind(border, start + longest // 2, end) + len(border) for border in BORDERS)
            end = next((border for border in borders if border > start + longest // 2), end)
        if not text[start:end].isspace():
            source = document.source if len(text) <= longest else f"{document.source}, from character {start}"
            yield Document(source, text[start:end])
        start = end


def leave_out(record: BadRecord, on_error: str, skipped: Counter[str]) -> None:
    """Counts a bad record under `on_error` skip; raises ValueError under stop."""
    if on_error == "stop":
        raise ValueError(
            f"{record.source}: {record.kind}: {record.detail}. Mend it, or set on_error: skip to leave such records "
            f"out and count them; what is done already is kept"
        )
    skipped[record.kind] += 1


def contents_fingerprint(contents: Any) -> str:
    """64 hexadecimal digits over what `Corpus.contents` gave: names and checksums, but not when a file was touched."""
    if isinstance(contents, dict):
        contents = {name: entry["sha256"] for name, entry in contents.items()}
    return fingerprint(contents)


class FileCorpus(Generic[Record_co]):
    """The files of a path, folder or glob whose names end in one of `endings`, in the order of their names.

    `read_file` gives what is in an open file of some name.
    """

    def __init__(
        self,
        source: str,
        read_file: Callable[[BinaryIO, str], Iterator[Record_co | BadRecord]],
        endings: Sequence[str],
    ) -> None:
        self._read_file = read_file
        self._files = _find_files(source, endings)
        self._done = 0
        self._raw = None
        self.size = sum(path.stat().st_size for path in self._files.values())

    def read(self) -> Iterator[Record_co | BadRecord]:
        self._done = 0
        for name, path in self._files.items():
            with open(path, "rb") as self._raw:
                yield from self._read_file(self._raw, name)
                self._done += path.stat().st_size
            self._raw = None

    def position(self) -> int:
        return self._done + (self._raw.tell() if self._raw is not None and not self._raw.closed else 0)

    def contents(self, known: Any) -> dict[str, dict[str, Any]]:
        """Name of each file -> size, time of change and checksum; a file that did not change is not read again."""
        known = known or {}
        entries = {}
        for name, path in self._files.items():
            stat = path.stat()
            entry = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            before = known.get(name, {})
            unchanged = all(before.get(key) == value for key, value in entry.items())
            entries[name] = {**entry, "sha256": before["sha256"] if unchanged else sha256_file(path)}
        return entries


def _find_files(source: str, endings: Sequence[str]) -> dict[str, Path]:
    """Name of each file, relative to what they have in common -> its path, sorted by name."""
    path = Path(source)
    if path.is_file():
        if not is_readable(path.name, endings):
            raise ValueError(
                f"{source}: expected a name that ends in {', '.join(endings)}, perhaps followed by .gz, .zst, .xz or "
                f".bz2; rename it after what it holds"
            )
        return {path.name: path}
    if path.is_dir():
        root, paths = path, [file for file in path.rglob("*") if not _is_hidden(file, path)]
    else:
        paths = [Path(name) for name in glob.glob(source, recursive=True)]
        root = Path(glob.escape(source).partition("[")[0] + "_").parent  # the last folder before a wildcard
    files = sorted(file for file in paths if file.is_file() and is_readable(file.name, endings))
    if not files:
        what = "no readable files there" if path.is_dir() else "nothing by that name"
        raise FileNotFoundError(
            f"{source}: expected a file, folder or glob of {', '.join(endings)} files, got {what} "
            f"(relative paths start at {Path.cwd()})"
        )
    return {file.relative_to(root).as_posix(): file for file in files}


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)
