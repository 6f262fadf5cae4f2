"""Reading documents out of files: .txt, .jsonl and .parquet, each also compressed. Streams; nothing is kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, BinaryIO, NamedTuple

from retrolit.tokens.compression import DamagedFileError, decompressed, strip_compression
from retrolit.tokens.config import CorpusConfig

TEXT = (".txt", ".text", ".md", ".rst", ".tokens")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)


class Document(NamedTuple):
    """One document, and where it came from, for people: "wiki.jsonl:17"."""

    source: str
    text: str


class BadRecord(NamedTuple):
    """A record that is no document: where it is, what kind of mistake, and the details."""

    source: str
    kind: str
    detail: str


def is_readable(name: str) -> bool:
    """Whether the name's ending is one of a format we read."""
    return PurePath(strip_compression(name)[0]).suffix in (*TEXT, *JSON_LINES, *PARQUET)


def read_file(raw: BinaryIO, name: str, config: CorpusConfig) -> Iterator[Document | BadRecord]:
    """The documents of one open file called `name`, in order; the format follows from the name's ending."""
    plain_name, compression = strip_compression(name)
    suffix = PurePath(plain_name).suffix
    try:
        with decompressed(raw, compression) as file:
            if suffix in JSON_LINES:
                yield from _read_json_lines(file, name, config.text_field)
            elif suffix in PARQUET:
                yield from _read_parquet(file, name, config.text_field, seekable=not compression)
            elif config.separator is None:
                yield from _read_whole_text(file, name)
            else:
                yield from _read_separated_text(file, name, config.separator.encode())
    except DamagedFileError as error:
        yield BadRecord(name, "damaged file", f"{error}; what follows in it is lost")


def field_of(record: Any, field: str, source: str) -> Document | BadRecord:
    """The document in a record's field."""
    if not isinstance(record, dict):
        return BadRecord(
            source, "not an object", f"expected an object with the field {field!r}, got {type(record).__name__}"
        )
    if field not in record:
        names = ", ".join(sorted(map(str, record))[:10]) or "none"
        return BadRecord(source, "missing field", f"expected the field {field!r} (text_field), got {names}")
    if not isinstance(record[field], str):
        return BadRecord(source, "not text", f"expected text in {field!r}, got {type(record[field]).__name__}")
    return Document(source, record[field])


def _read_json_lines(file: BinaryIO, name: str, field: str) -> Iterator[Document | BadRecord]:
    # The lines of a binary file end at "\n" only; U+2028 and the like may stand inside a string.
    for number, line in enumerate(file, 1):
        source = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.isspace():
                continue
            document = field_of(json.loads(text), field, source)
        except UnicodeDecodeError as error:
            yield _wrong_encoding(source, line, error)
        except (ValueError, RecursionError) as error:
            yield BadRecord(source, "broken JSON", str(error))
        else:
            yield _refuse_surrogates(document) if "\\u" in text else document


def _refuse_surrogates(document: Document | BadRecord) -> Document | BadRecord:
    """JSON can spell half a character ("\\ud800"), which no tokenizer can read."""
    if isinstance(document, Document):
        try:
            document.text.encode()
        except UnicodeEncodeError as error:
            code = ord(document.text[error.start])
            return BadRecord(document.source, "lone surrogate", f"U+{code:04X} at character {error.start} of the text")
    return document


def _read_whole_text(file: BinaryIO, name: str) -> Iterator[Document | BadRecord]:
    content = file.read()
    try:
        yield Document(name, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield _wrong_encoding(f"{name}:{line}", content, error)


def _read_separated_text(file: BinaryIO, name: str, separator: bytes) -> Iterator[Document | BadRecord]:
    lines: list[bytes] = []
    first = 1
    for number, line in enumerate(file, 1):
        if line.rstrip(b"\r\n") == separator:
            if lines:
                yield _joined(lines, name, first)
            lines, first = [], number + 1
        else:
            lines.append(line)
    if lines:
        yield _joined(lines, name, first)


def _joined(lines: list[bytes], name: str, first: int) -> Document | BadRecord:
    """The document of these lines, without the line break before the separator."""
    content = b"".join(lines).removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Document(f"{name}:{first}", content.decode("utf-8-sig" if first == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        line = first + content.count(b"\n", 0, error.start)
        return _wrong_encoding(f"{name}:{line}", content, error)


def _read_parquet(file: BinaryIO, name: str, field: str, seekable: bool) -> Iterator[Document | BadRecord]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError('a .parquet file needs the package pyarrow: pip install "retrolit[data]"') from error
    with tempfile.TemporaryFile() as unpacked:
        if not seekable:
            shutil.copyfileobj(file, unpacked)
            unpacked.seek(0)
            file = unpacked  # pyright: ignore[reportAssignmentType]
        number = 0
        try:
            table = parquet.ParquetFile(file)
            if field not in table.schema_arrow.names:
                yield field_of(dict.fromkeys(table.schema_arrow.names), field, name)
                return
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(1024, row_groups=[group], columns=[field]):
                    for value in batch.column(0).to_pylist():
                        number += 1
                        yield field_of({field: value}, field, f"{name}:{number}")
        except (arrow.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:  # the disk's mistake, not the file's
                raise
            raise DamagedFileError(f"after row {number}: {error}") from error


def _wrong_encoding(source: str, content: bytes, error: UnicodeDecodeError) -> BadRecord:
    return BadRecord(source, "wrong encoding", f"expected UTF-8, got the byte 0x{content[error.start]:02x}")
