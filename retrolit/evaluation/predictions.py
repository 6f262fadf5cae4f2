"""What a model wrote for each example of a task, on disk as soon as it is written: a run that was cut off goes on.

    settings.json               all that decides what is written; another setting is refused by name
    predictions-<rank>.jsonl    a line an example, appended batch by batch; a line that was cut off is written again
    scores.jsonl                when all are there: prediction, references and scores of every example
    results.json                and the task's scores

Several processes may share the work: each has a file of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from retrolit.storage import read_json, write_json

SETTINGS, SCORES, RESULTS = "settings.json", "scores.jsonl", "results.json"


class PredictionFolder:
    """The predictions of one task, by one model.

    Raises ValueError where the folder has been begun with other settings.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], rank: int = 0) -> None:
        self.folder = Path(folder)
        self.own = self.folder / f"predictions-{rank}.jsonl"
        path = self.folder / SETTINGS
        if path.is_file():
            before = read_json(path)
            differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            if differing:
                told = "; ".join(f"{name} {before.get(name)}, now {settings.get(name)}" for name in differing)
                raise ValueError(
                    f"{self.folder}: expected the settings that its predictions were made with, got {told}; choose "
                    "another output folder"
                )
        else:
            write_json(path, settings)

    def read(self) -> dict[str, dict[str, Any]]:
        """Id of each example -> its line, of all processes."""
        return {line["id"]: line for path in sorted(self.folder.glob("predictions-*.jsonl")) for line in _lines(path)}

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Adds lines to this process's file; they are on the disk when this returns."""
        _end_at_a_whole_line(self.own)
        with open(self.own, "ab") as file:
            file.writelines(to_line(line) for line in lines)
            file.flush()
            os.fsync(file.fileno())


def to_line(content: dict[str, Any]) -> bytes:
    """A line of JSON."""
    return json.dumps(content, ensure_ascii=False).encode(errors="replace") + b"\n"


def _lines(path: Path) -> Sequence[dict[str, Any]]:
    """The whole lines of a file; what stands behind the last line's end was cut off."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    try:
        return [json.loads(line) for line in whole.split(b"\n")] if whole else []
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON lines, got something else ({error}); remove the file") from error


def _end_at_a_whole_line(path: Path) -> None:
    """Takes away a last line that was cut off, so that nothing is written behind it."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
