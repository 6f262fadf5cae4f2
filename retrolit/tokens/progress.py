"""How a long stage shows how far it is: a bar on a terminal, one line a stage elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Called with how much is done by now."""

Progress = Callable[[str, int | None], AbstractContextManager[Advance]]
"""`with progress("tokenizing wiki", total) as advance:` shows one stage; total is None when it is not known."""


@contextmanager
def silent(stage: str, total: int | None) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda done: None


@contextmanager
def visible(stage: str, total: int | None) -> Iterator[Advance]:
    """A bar with rate and time left when standard error is a terminal, else a line when the stage is finished."""
    if not sys.stderr.isatty():
        start = time.monotonic()
        yield lambda done: None
        print(f"{stage}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(stage, total=total)
        yield lambda done: bars.update(task, completed=done)
        if total is not None:
            bars.update(task, completed=total)
