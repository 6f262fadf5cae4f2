"""Paths that a data.yaml names, wherever the command is started that reads it.

A path is looked for in the current directory; what is not there is looked for beside the file that names it, as the
data.yaml itself is looked for beside its recipe. Only what is read is looked for: what is made goes to the current
directory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from jsonargparse.typing import register_type

if TYPE_CHECKING:
    RecipePath = str
else:

    class RecipePath(str):
        """A file, folder or glob that is read, or a name that is none of them."""


_started_in: ContextVar[str | None] = ContextVar("started_in", default=None)


@contextmanager
def looking_beside_recipes() -> Iterator[None]:
    """While a command line is parsed: paths are also looked for beside the files that name them."""
    if _started_in.get() is not None:  # a file that another one names
        yield
        return
    token = _started_in.set(os.getcwd())
    try:
        yield
    finally:
        _started_in.reset(token)


def find(path: str) -> RecipePath:
    """The path as it leads from the current directory to what it names."""
    if not isinstance(path, str):
        raise ValueError(f"expected text, got {type(path).__name__}")
    # The parser reads what a file says in that file's folder.
    start, here = _started_in.get(), os.getcwd()
    if start is None or start == here or _there(start, path) or not _there(here, path):
        return RecipePath(path)
    found = os.path.normpath(os.path.join(here, path))
    relative = os.path.relpath(found, start)
    return RecipePath(found if relative.startswith(os.pardir) else relative)


def _there(folder: str, path: str) -> bool:
    return bool(path) and bool(glob.glob(os.path.join(glob.escape(folder), path)))


register_type(RecipePath, str, find)
