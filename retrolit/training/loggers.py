"""Where metrics go: to every logger, and always to metrics.jsonl, one line a row, only ever appended to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

FILE_NAME = "metrics.jsonl"


def log_row(trainer: L.Trainer, row: Mapping[str, float]) -> None:
    """Give one row of metrics to every logger, under the number of optimizer steps done."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(row), step=trainer.global_step)


def row_is_due(trainer: L.Trainer, after: int = 0) -> bool:
    """Whether the optimizer step just done, or that `after` so many more, is one of those whose metrics are logged."""
    return (trainer.global_step + after) % trainer.log_every_n_steps == 0  # pyright: ignore[reportAttributeAccessIssue]


class MetricsFile(Logger):
    """Appends {"step": 100, "train/loss": 2.31, ...} to metrics.jsonl in the run's folder.

    A row is on the disk's way as soon as it is logged. A run that was killed and goes on from its checkpoint appends
    the steps since then once more: of rows with the same step and names the last one counts.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / FILE_NAME
        self._mended = False

    @property
    def name(self) -> None:
        """None: no folder of its own."""
        return None

    @property
    def version(self) -> None:
        """None: one file for all attempts."""
        return None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        if not self._mended:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_row(self.path)
            self._mended = True
        row = {"step": step} | {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml beside the file holds them."""


def _cut_torn_row(path: Path) -> None:
    """Take away a last row without an end, which a killed run may have left."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
