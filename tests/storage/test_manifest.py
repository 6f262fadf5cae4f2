"""Manifests: equal artifacts have equal fingerprints, and what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retrolit import __version__
from retrolit.storage import Damaged, Manifest, set_aside_damaged
from retrolit.storage.manifest import set_aside_changed


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
    with pytest.raises(Damaged, match="lacks sizes"):
        Manifest.read(folder, "tokens")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(
        Damaged, match=r"manifest\.json: line 1 is no valid JSON.*; make it again with: retrolit prepare"
    ):
        Manifest.read(folder, "tokens")
    with pytest.raises(Damaged, match="; remove the folder and make it again with: retrolit fit or retrolit convert"):
        Manifest.read(folder, "model")
    with pytest.raises(FileNotFoundError, match=r"expected a folder of tokens with a manifest\.json, got none"):
        Manifest.read(folder / "nowhere", "tokens")


@pytest.mark.parametrize("damage", ["file removed", "file cut", "manifest cut", "manifest removed"])
def test_a_damaged_folder_makes_way_for_another(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "owls")
    set_aside_damaged(tmp_path / "owls", "tokens")
    set_aside_damaged(tmp_path / "nowhere", "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["owls"]
    (tmp_path / ".owls.damaged/of an earlier time").mkdir(parents=True)
    path = tmp_path / "owls" / ("train.bin" if damage.startswith("file") else "manifest.json")
    if damage.endswith("cut"):
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.unlink()
    set_aside_damaged(tmp_path / "owls", "tokens")
    assert not (tmp_path / "owls").exists()
    assert {path.name for path in (tmp_path / ".owls.damaged").iterdir()} <= {"train.bin", "manifest.json"}
    assert "doing it again, what was there is now" in caplog.text


def test_of_another_version_nothing_is_set_aside(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(ValueError, match="format_version: expected 1, got 2"):
        set_aside_damaged(folder, "tokens")
    assert (folder / "train.bin").exists()


def test_of_several_processes_none_sets_aside_what_another_made_again(tmp_path: Path) -> None:
    def mend(_: int) -> None:
        set_aside_damaged(tmp_path / "owls", "tokens")
        if not (tmp_path / "owls").exists():
            make(tmp_path / f"owls-{_}")
            try:
                (tmp_path / f"owls-{_}").rename(tmp_path / "owls")
            except OSError:
                shutil.rmtree(tmp_path / f"owls-{_}")
        Manifest.read(tmp_path / "owls", "tokens").verify(tmp_path / "owls")

    for _ in range(20):
        make(tmp_path / "owls")
        (tmp_path / "owls/train.bin").write_bytes(b"1")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(mend, range(4)))
        shutil.rmtree(tmp_path / "owls")


def test_a_changed_file_is_set_aside_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("owls", "eagles", "deep/hawks", ".work/whole", "unreadable"):
        make(tmp_path / name)
    for name in ("owls", "deep/hawks", ".work/whole"):
        (tmp_path / name / "train.bin").write_bytes(b"54321")
    (tmp_path / "unreadable/manifest.json").write_text("{")
    set_aside_changed(tmp_path)
    there = {str(path.relative_to(tmp_path).parent): path.name for path in tmp_path.rglob("train.*")}
    assert there == {
        "owls": "train.bin.damaged",
        "eagles": "train.bin",
        "deep/hawks": "train.bin.damaged",
        ".work/whole": "train.bin",
        "unreadable": "train.bin",
    }
    assert caplog.text.count("train.bin: its checksum is not the one in manifest.json") == 2


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(b"12345")
    Manifest("tokens", {"text_field": "text"}, {"corpus": "c0"}, {"tokens": 5}, {"train.bin": {}}).write(folder)
