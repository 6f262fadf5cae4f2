"""What lies in the folder of a run, and in that of `retrolit evaluate`, as it is on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from retrolit.evaluation.predictions import SCORES
from retrolit.evaluation.results_file import FILE_NAME as RESULTS
from retrolit.evaluation.results_file import read_results
from retrolit.retrieval.card import FILE_NAME as CARD
from retrolit.retrieval.card import Card
from retrolit.storage import Manifest, read_json

CONFIG, METRICS, SAMPLES, RUN_FILE, MODEL, LEAKAGE = (
    "config.yaml", "metrics.jsonl", "samples.jsonl", "run.json", "model", "leakage.json"
)  # fmt: skip
"""What training and `retrolit report leakage` call their files."""


@dataclass
class Run:
    """A run's folder; what is missing in it is empty."""

    name: str
    """How the report calls it."""

    folder: Path

    config: dict[str, Any]
    """config.yaml: all settings."""

    config_text: str
    """The same, as it is written there."""

    surroundings: dict[str, Any]
    """run.json: machine, and fingerprints of the data."""

    rows: list[dict[str, float]]
    """metrics.jsonl by step; of rows with the same step and names the last one."""

    results: dict[str, dict[str, Any]]
    """results.json: split -> what `retrolit test` and `validate` found."""

    samples: list[dict[str, Any]]
    """samples.jsonl: what the model wrote after each validation."""

    model: dict[str, Any]
    """Of the model folder: fingerprint, type, parameters."""

    prepared: Path | None
    """The folder of its data; None where the settings name none."""

    cards: dict[str, Card] = field(default_factory=dict)
    """Index folder -> its card."""

    leakage: dict[str, Any] = field(default_factory=dict)
    """leakage.json of the prepared folder."""

    @property
    def is_retro(self) -> bool:
        """Whether its model reads neighbors."""
        return self.setting("model", "init_args", "config", "decoder") is not None

    @property
    def on_conversations(self) -> bool:
        """Whether it is tuned on conversations, which have neither an index nor an evaluation by documents."""
        return str(self.setting("data", "class_path")).endswith("InstructionData")

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """(step, value) of a metric, where it is finite."""
        return [
            (row["step"], row[metric])
            for row in self.rows
            if isinstance(row.get(metric), int | float) and math.isfinite(row[metric])
        ]

    def setting(self, *names: str) -> Any:
        """One of the settings, by its path in config.yaml; None where there is none."""
        found: Any = self.config
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found


@dataclass
class Evaluation:
    """The folder of `retrolit evaluate`."""

    name: str
    """How the report calls it."""

    folder: Path

    tasks: dict[str, dict[str, Any]]
    """Task -> its results.json."""

    model: str
    """As it was named on the command line."""

    answers: dict[str, list[dict[str, Any]]]
    """Task -> a line a question: prediction, references, scores, and the sources of what was read."""

    @property
    def fingerprints(self) -> set[str]:
        """Of the models that answered."""
        return {task["settings"]["model"] for task in self.tasks.values()}


def load(folders: Sequence[str | Path]) -> tuple[list[Run], list[Evaluation]]:
    """The runs and the evaluations among these folders, with names that differ.

    Raises FileNotFoundError for a folder that is neither, and ValueError for a damaged file.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    last = [path.resolve().name for path in paths]
    names = [str(path) if last.count(name) > 1 else name for path, name in zip(paths, last, strict=True)]
    runs, evaluations = [], []
    for path, name in zip(paths, names, strict=True):
        if (path / CONFIG).is_file() or (path / METRICS).is_file():
            runs.append(_run(path, name))
        elif _is_evaluation(path):
            evaluations.append(_evaluation(path, name))
        else:
            raise FileNotFoundError(
                f"{path}: expected the folder of a run ({CONFIG}, {METRICS}) or of `retrolit evaluate` ({RESULTS}), "
                "got neither; make one with: retrolit fit -c recipe.yaml"
            )
    return runs, evaluations


def _run(folder: Path, name: str) -> Run:
    config_text = _text(folder / CONFIG)
    config = yaml.safe_load(config_text) or {}
    surroundings = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    run = Run(
        name, folder, config, config_text, surroundings, _rows(folder / METRICS), read_results(folder),
        _lines(folder / SAMPLES), _model(folder / MODEL), None,
    )  # fmt: skip
    data = run.setting("data", "init_args", "data", "folder")
    if data is not None:
        run.prepared = Path(data)
        indexes = [path.parent for path in sorted(run.prepared.glob(f"*/index-*/{CARD}"))]
        run.cards = {index.name: Card.read(index) for index in indexes}
        if (run.prepared / LEAKAGE).is_file():
            run.leakage = read_json(run.prepared / LEAKAGE)
    return run


def _rows(path: Path) -> list[dict[str, float]]:
    """Rows merged by step, in order: a run that went on from a checkpoint repeats the steps since then."""
    merged: dict[float, dict[str, float]] = {}
    for row in _lines(path):
        merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]


def _model(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        return {}
    manifest = Manifest.read(folder, "model")
    return {"fingerprint": manifest.fingerprint, "type": manifest.settings["model_type"], **manifest.sizes}


def _is_evaluation(folder: Path) -> bool:
    path = folder / RESULTS
    return path.is_file() and "tasks" in read_json(path)


def _evaluation(folder: Path, name: str) -> Evaluation:
    content = read_json(folder / RESULTS)
    answers = {task: _answers(folder / task) for task in content["tasks"]}
    return Evaluation(name, folder, content["tasks"], content["model"], answers)


def _answers(folder: Path) -> list[dict[str, Any]]:
    read = {
        line["id"]: {"contexts": line["contexts"], "neighbors": line["neighbors"]}
        for path in sorted(folder.glob("predictions-*.jsonl"))
        for line in _lines(path)
    }
    return [line | read.get(line["id"], {"contexts": [], "neighbors": []}) for line in _lines(folder / SCORES)]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines: the last may be written just now."""
    whole = _text(path).rpartition("\n")[0]
    try:
        return [json.loads(line) for line in whole.split("\n") if line]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON lines, got something else ({error}); remove the file") from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
