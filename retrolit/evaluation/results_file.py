"""results.json: what was found out about a run's model on each split, with what, of what and how.

    {"format_version": 1, "made_by": "retrolit ...", "splits": {"test": {...}, "validation": {...}}}

A split that is evaluated again takes the place of what was there; the other stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrolit import __version__
from retrolit.storage import Manifest, fingerprint, read_json, write_json
from retrolit.storage.files import sha256_file

FORMAT_VERSION = 1
FILE_NAME = "results.json"


def read_results(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Split -> its results; nothing where none has been evaluated.

    Raises ValueError for a file of another version, or one that is damaged.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return {}
    content = read_json(path)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version: expected {FORMAT_VERSION}, got {version}; move it away and evaluate again with: "
            "retrolit test"
        )
    return content["splits"]


def write_results(folder: str | Path, split: str, results: dict[str, Any]) -> Path:
    """Put the results of a split into the file, which is written whole."""
    path = Path(folder) / FILE_NAME
    splits = read_results(folder) | {split: results}
    write_json(path, {"format_version": FORMAT_VERSION, "made_by": f"retrolit {__version__}", "splits": splits})
    return path


def weights_fingerprint(path: str | Path) -> str:
    """64 hexadecimal digits of a model folder or a checkpoint: one file, or a folder of shards."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    try:
        return Manifest.read(path, "model").fingerprint
    except FileNotFoundError:
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return fingerprint({str(file.relative_to(path)): sha256_file(file) for file in files})
