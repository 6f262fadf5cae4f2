"""Opening compressed files: .gz, .bz2 and .xz by the standard library, .zst by the package zstandard."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import BinaryIO

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")


class DamagedFileError(Exception):
    """A compressed file that is cut off or broken, found while reading it."""


def strip_compression(name: str) -> tuple[str, str]:
    """The name without the ending of a compression, and that ending ("" when there is none)."""
    suffix = PurePath(name).suffix
    return (name[: -len(suffix)], suffix) if suffix in COMPRESSIONS else (name, "")


@contextmanager
def decompressed(raw: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """`raw` as the uncompressed bytes it holds. Reading raises DamagedFileError where they end too early."""
    try:
        if suffix == ".gz":
            yield gzip.GzipFile(fileobj=raw)  # pyright: ignore[reportReturnType]
        elif suffix == ".bz2":
            yield bz2.BZ2File(raw)  # pyright: ignore[reportReturnType]
        elif suffix == ".xz":
            yield lzma.LZMAFile(raw)  # noqa: SIM115  # pyright: ignore[reportReturnType]
        elif suffix == ".zst":
            yield io.BufferedReader(_Zstandard(raw), 1 << 17)  # pyright: ignore[reportReturnType]
        else:
            yield raw
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DamagedFileError(str(error)) from error
    except OSError as error:
        if suffix == ".bz2" and error.errno is None:  # what bz2 raises for broken data
            raise DamagedFileError(str(error)) from error
        raise


class _Zstandard(io.RawIOBase):
    """zstandard's own reader takes a file that is cut off for one that ends; this one raises EOFError."""

    def __init__(self, raw: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise ValueError('a .zst file needs the package zstandard: pip install "retrolit[data]"') from error
        self._raw = raw
        self._error = zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._new_frame()
        self._compressed = b""
        self._plain = memoryview(b"")
        self._inside = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._plain:
            if not self._compressed:
                self._compressed = self._raw.read(1 << 17)
            if not self._compressed:
                if self._inside:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            self._decompress()
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _decompress(self) -> None:
        try:
            self._plain = memoryview(self._frame.decompress(self._compressed))
        except self._error as error:
            raise EOFError(str(error)) from error
        self._inside = not self._frame.eof
        self._compressed = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:  # frames may follow one another
            self._frame = self._new_frame()
