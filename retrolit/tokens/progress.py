"""How a long stage shows how far it is: a bar on a terminal, one line a stage elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Called with how much is done by now."""

Progress = Callable[..., AbstractContextManager[Advance]]
"""`with progress("tokenizing wiki", total) as advance:` shows one stage; total is None when it is not known. It counts
bytes, or what a third argument says: `progress("embedding", total, "chunks")`."""


@contextmanager
def silent(stage: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda done: None


@contextmanager
def visible(stage: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
    """A bar with rate and time left when standard error is a terminal, else a line when the stage is finished."""
    if not sys.stderr.isatty():
        start = time.monotonic()
        yield lambda done: None
        print(f"{stage}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        return
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Count(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{task.completed:,.0f} {unit}" + (f", {speed:,.0f}/s" if speed else ""))

    counts = (progress.DownloadColumn(), progress.TransferSpeedColumn()) if unit == "bytes" else (Count(),)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        *counts,
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(stage, total=total)
        yield lambda done: bars.update(task, completed=done)
        if total is not None:
            bars.update(task, completed=total)
