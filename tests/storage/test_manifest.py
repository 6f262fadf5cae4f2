"""Manifests: equal artifacts have equal fingerprints, and what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrolit import __version__
from retrolit.storage import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.bin").write_bytes(b"12345")
    Manifest("tokens", {"text_field": "text"}, {"corpus": "c0"}, {"tokens": 5}, {"train.bin": {}}).write(tmp_path)
    return tmp_path


def test_written_is_read(folder: Path) -> None:
    manifest = Manifest.read(folder, "tokens")
    assert manifest.settings == {"text_field": "text"}
    assert manifest.files["train.bin"]["bytes"] == 5
    content = json.loads((folder / "manifest.json").read_text())
    assert content["format_version"] == 1
    assert content["made_by"] == f"retrolit {__version__}"
    manifest.verify(folder, deep=True)


def test_the_fingerprint_follows_what_matters(folder: Path) -> None:
    same = Manifest.read(folder, "tokens")
    assert same.fingerprint == Manifest.read(folder, "tokens").fingerprint
    fingerprints = {same.fingerprint}
    for change in (
        {"kind": "other"},
        {"settings": {"text_field": "body"}},
        {"inputs": {"corpus": "c1"}},
        {"files": {"train.bin": {"bytes": 5, "sha256": "0"}}},
    ):
        fingerprints.add(Manifest(**{**vars(same), **change}).fingerprint)
    assert len(fingerprints) == 5
    assert Manifest(**{**vars(same), "sizes": {}}).fingerprint == same.fingerprint


def test_verify_names_the_file(folder: Path) -> None:
    manifest = Manifest.read(folder, "tokens")
    (folder / "train.bin").write_bytes(b"54321")
    manifest.verify(folder)
    with pytest.raises(ValueError, match=r"train\.bin: its checksum is not the one.*retrolit prepare -c data\.yaml"):
        manifest.verify(folder, deep=True)
    (folder / "train.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"train\.bin: expected 5 bytes, got 4"):
        manifest.verify(folder)
    (folder / "train.bin").unlink()
    with pytest.raises(ValueError, match=r"train\.bin: the file is missing"):
        manifest.verify(folder)


def test_reading_refuses_by_field(folder: Path) -> None:
    with pytest.raises(ValueError, match="kind: expected model, got tokens"):
        Manifest.read(folder, "model")
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(ValueError, match="format_version: expected 1, got 2"):
        Manifest.read(folder, "tokens")
    del content["sizes"]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks sizes"):
        Manifest.read(folder, "tokens")
    with pytest.raises(FileNotFoundError, match=r"expected a folder of tokens with a manifest\.json, got none"):
        Manifest.read(folder / "nowhere", "tokens")
