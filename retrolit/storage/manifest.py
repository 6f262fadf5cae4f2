"""manifest.json: what an artifact is, what made it, what it was made from, and the checksums of its files.

A later stage opens the manifest of an earlier one and refuses, by field name, what does not fit. Files that no
manifest lists (a file manager's leftovers, notes) are ignored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrolit import __version__
from retrolit.storage.files import Damaged, lock, read_json, rename_folder, sha256_file, write_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


def fingerprint(obj: Any) -> str:
    """SHA-256 over `obj` as canonical JSON (sorted keys, no spaces), as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(obj, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass
class Manifest:
    """What is written down about one artifact folder."""

    kind: str
    """What the folder holds: tokenizer, tokens, model, ..."""

    settings: dict[str, Any]
    """The settings that made it, in JSON's types."""

    inputs: dict[str, str]
    """Name of each input -> its fingerprint."""

    sizes: dict[str, Any]
    """Counts a reader wants to know: documents, tokens, bytes, ..."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of each file, relative to the folder -> {"bytes": its size, "sha256": its checksum}."""

    @property
    def fingerprint(self) -> str:
        """Changes with the kind, the settings, the inputs and the files' contents, and with nothing else."""
        checksums = {name: entry["sha256"] for name, entry in self.files.items()}
        return fingerprint([self.kind, FORMAT_VERSION, self.settings, self.inputs, checksums])

    def write(self, folder: str | Path) -> None:
        """Writes manifest.json, last of all files; a file of `files` without an entry yet is measured here."""
        folder = Path(folder)
        unmeasured = [name for name, entry in self.files.items() if "sha256" not in entry]
        with ThreadPoolExecutor() as pool:
            checksums = list(pool.map(lambda name: sha256_file(folder / name), unmeasured))
        for name, checksum in zip(unmeasured, checksums, strict=True):
            self.files[name] |= {"bytes": (folder / name).stat().st_size, "sha256": checksum}
        content = {"format_version": FORMAT_VERSION, "made_by": f"retrolit {__version__}", **asdict(self)}
        write_json(folder / FILE_NAME, content)

    @classmethod
    def read(cls, folder: str | Path, kind: str) -> Manifest:
        """The manifest of a folder of this kind.

        Raises FileNotFoundError when there is none, Damaged when it cannot be read, ValueError when it is of another
        kind or version.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: expected a folder of {kind} with a {FILE_NAME}, got none; {_remedy(kind)}"
            )
        try:
            content = read_json(path)
        except ValueError as error:
            raise Damaged(f"{error}; {_remedy(kind)}") from error
        missing = [name for name in ("format_version", "kind", "settings", "inputs", "sizes", "files")
                   if name not in content]  # fmt: skip
        if missing:
            raise Damaged(f"{path}: lacks {', '.join(missing)}; {_remedy(kind)}")
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path}: format_version: expected {FORMAT_VERSION}, got {content['format_version']}; {_remedy(kind)}"
            )
        if content["kind"] != kind:
            raise ValueError(f"{path}: kind: expected {kind}, got {content['kind']}")
        return cls(**{name: content[name] for name in ("kind", "settings", "inputs", "sizes", "files")})

    def verify(self, folder: str | Path, deep: bool = False) -> None:
        """Compares the files with what was written down: sizes always, checksums when `deep`.

        Raises Damaged, which names the first file that is missing or differs.
        """
        for name, entry in self.files.items():
            path = Path(folder) / name
            if not path.is_file():
                raise Damaged(f"{path}: the file is missing, {FILE_NAME} lists it; {_remedy(self.kind)}")
            if path.stat().st_size != entry["bytes"]:
                raise Damaged(
                    f"{path}: expected {entry['bytes']:,} bytes, got {path.stat().st_size:,}; {_remedy(self.kind)}"
                )
            if deep and sha256_file(path) != entry["sha256"]:
                raise Damaged(f"{path}: its checksum is not the one in {FILE_NAME}; {_remedy(self.kind)}")


def set_aside_damaged(folder: Path, kind: str) -> None:
    """Renames a finished folder that lacks files, or has files of another size, so that it is made again.

    A warning names the file, and the new name of the folder: .NAME.damaged, in place of one that was there before.
    Several processes may call this at once. Raises ValueError for a folder of another kind or version.
    """
    if _damage(folder, kind) is None:
        return
    with lock(folder.with_name(f".{folder.name}.lock")):
        damage = _damage(folder, kind)  # another process may have set it aside, and even made it again
        if damage is not None:
            aside = folder.with_name(f".{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            rename_folder(folder, aside)
            logger.warning("damaged: %s; doing it again, what was there is now %s", damage, aside)


def set_aside_changed(folder: Path) -> None:
    """Compares the checksums of all finished artifacts under `folder`; a file that differs is renamed to NAME.damaged.

    It is then a missing file, which whoever makes the artifact makes again. A warning names it.
    """
    for path in sorted(folder.rglob(FILE_NAME)):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):  # unfinished, or set aside
            continue
        try:
            files = read_json(path)["files"]
        except (ValueError, KeyError):  # who opens it says so
            continue
        for name, entry in files.items():
            file = path.parent / name
            if file.is_file() and sha256_file(file) != entry["sha256"]:
                logger.warning("damaged: %s: its checksum is not the one in %s", file, FILE_NAME)
                file.replace(file.with_name(f"{name}.damaged"))


def _damage(folder: Path, kind: str) -> Exception | None:
    """What is wrong with a folder, if it is there and something is."""
    try:
        if folder.exists():
            Manifest.read(folder, kind).verify(folder)
    except (Damaged, FileNotFoundError) as error:
        return error
    return None


def _remedy(kind: str) -> str:
    """What to do, at the end of an error message."""
    if kind == "model":
        return "remove the folder and make it again with: retrolit fit or retrolit convert"
    return "make it again with: retrolit prepare -c data.yaml"
