"""Files and folders that appear whole or not at all.

Whatever is written gets a temporary name in the same folder, is forced to the disk, and only then takes its real
name: a reader, or the next run after a power cut, never meets half of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)


class Damaged(ValueError):
    """A file is missing, or is not what was written; what makes it can make it again."""


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends.

    When the block raises, or the disk is full, nothing remains of it and an older `path` is untouched; the OSError
    then names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends, and is removed when it raises.

    Raises FileExistsError when `path` exists, before any work is done and again at the end.
    """
    path = Path(path)
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            _sync_folder(file)
        _sync_folder(partial)
        _refuse_existing(path)
        rename_folder(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def rename_folder(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Gives a folder its final name, on the same disk, and forces the change to the disk."""
    os.rename(source, target)
    _sync_folder(Path(target).parent)


@contextmanager
def lock(path: str | os.PathLike) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made when missing), waiting for whoever holds it now.

    The system frees it when the process dies. Where there are no such locks (Windows, some network file systems) the
    block simply runs: all files are written whole, so two runs then repeat each other's work and nothing worse.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        with suppress(ImportError, OSError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("%s is held by another process at the same work; waiting for it", path)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Writes `obj` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(obj, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def read_json(path: str | os.PathLike) -> Any:
    """The object in a JSON file. Raises FileNotFoundError, and ValueError with file and line when it is no JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno} is no valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected JSON in UTF-8, got other bytes at offset {error.start}") from error


def sha256_file(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partial_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} exists already; move it away or choose another name")


def _sync_folder(path: Path) -> None:
    """Forces a folder's list of names (or a file's bytes) to the disk, where the system lets one open it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
