"""Reading documents out of files: .txt, .jsonl and .parquet, each also compressed. Streams; nothing is kept."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, BinaryIO, NamedTuple

from retrolit.tokens.compression import DamagedFileError, decompressed, strip_compression
from retrolit.tokens.config import CorpusConfig

TEXT = (".txt", ".text", ".md", ".rst", ".tokens")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
DOCUMENTS = (*TEXT, *JSON_LINES, *PARQUET)


class Document(NamedTuple):
    """One document, and where it came from, for people: "wiki.jsonl:17"."""

    source: str
    text: str


class BadRecord(NamedTuple):
    """A record that is no document: where it is, what kind of mistake, and the details."""

    source: str
    kind: str
    detail: str


def is_readable(name: str, endings: Sequence[str]) -> bool:
    """Whether the name's ending, before that of a compression, is one of these."""
    return PurePath(strip_compression(name)[0]).suffix in endings


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
            elif config.heading is not None:
                yield from _read_headed_text(file, name, re.compile(config.heading.encode()))
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


def json_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, Any] | BadRecord]:
    """Where each line is, and the JSON value on it; blank lines are left out."""
    # The lines of a binary file end at "\n" only; U+2028 and the like may stand inside a string.
    for number, line in enumerate(lines, 1):
        source = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.isspace():
                continue
            value = json.loads(text)
        except UnicodeDecodeError as error:
            yield wrong_encoding(source, line, error)
        except (ValueError, RecursionError) as error:
            yield BadRecord(source, "broken JSON", str(error))
        else:
            yield source, value


def _read_json_lines(file: BinaryIO, name: str, field: str) -> Iterator[Document | BadRecord]:
    for record in json_lines(file, name):
        yield record if isinstance(record, BadRecord) else _refuse_surrogates(field_of(record[1], field, record[0]))


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
        yield wrong_encoding(f"{name}:{line}", content, error)


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


def _read_headed_text(file: BinaryIO, name: str, heading: re.Pattern[bytes]) -> Iterator[Document | BadRecord]:
    lines: list[bytes] = []
    first = 1
    for number, line in enumerate(file, 1):
        # Whether a line is a heading shows at the line after it.
        is_heading = len(lines) > 0 and not line.strip() and heading.search(lines[-1].rstrip(b"\r\n"))
        if is_heading and (len(lines) == 1 or not lines[-2].strip()):
            if len(lines) > 1:
                yield _joined(lines[:-1], name, first)
            lines, first = lines[-1:], number - 1
        lines.append(line)
    if lines:
        yield _joined(lines, name, first)


def _joined(lines: list[bytes], name: str, first: int) -> Document | BadRecord:
    """The document of these lines, without the line break at its end."""
    content = b"".join(lines).removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Document(f"{name}:{first}", content.decode("utf-8-sig" if first == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        line = first + content.count(b"\n", 0, error.start)
        return wrong_encoding(f"{name}:{line}", content, error)


def _read_parquet(file: BinaryIO, name: str, field: str, seekable: bool) -> Iterator[Document | BadRecord]:
    for source, row in table_rows(file, name, seekable, field):
        yield field_of(row, field, source)


def table_rows(
    file: BinaryIO, name: str, seekable: bool, column: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row of a .parquet file is, and its columns, or one of them alone.

    Of a file without that column, one row that says which columns there are.
    """
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
            if column is not None and column not in table.schema_arrow.names:
                yield name, dict.fromkeys(table.schema_arrow.names)
                return
            columns = None if column is None else [column]
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(1024, row_groups=[group], columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{name}:{number}", row
        except (arrow.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:  # the disk's mistake, not the file's
                raise
            raise DamagedFileError(f"after row {number}: {error}") from error


def wrong_encoding(source: str, content: bytes, error: UnicodeDecodeError) -> BadRecord:
    return BadRecord(source, "wrong encoding", f"expected UTF-8, got the byte 0x{content[error.start]:02x}")
