"""retrolit prepare with retrieval, and retrolit inspect neighbors, from a data.yaml to a page."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from retrolit.cli.main import main
from retrolit.reports.neighbor_page import Found, Shown, pieces, words, write_page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    river = "the river runs past the copper mill and the granite bridge into the harbor"
    texts = [river, f"once more: {river}, and then to the sea", "a violin and a <b>lantern</b> in the temple garden"]
    Path("notes.txt").write_text("\n\n".join(texts))
    Path("data.yaml").write_text(
        "folder: prepared\n"
        "tokens:\n"
        "  corpora:\n"
        "    notes: {source: notes.txt, separator: '', split: train}\n"
        "  tokenizer: {type: bytes}\n"
        "retrieval:\n"
        "  chunk_length: 32\n"
        "  embedder: {dimension: 64}\n"
    )
    return tmp_path


def test_prepare_makes_neighbors_and_inspect_shows_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "-c", "data.yaml"]) == 0
    printed = capsys.readouterr()
    assert "vectors are few enough to be compared one by one" in printed.err  # before the index is built
    assert "retrolit inspect neighbors prepared" in printed.out
    assert "notes train: 8 chunks" in printed.out

    assert main(["inspect", "neighbors", "prepared", "--chunks", "[0]"]) == 0
    shown = capsys.readouterr().out
    assert "/train, chunk 0: notes.txt:1" in shown
    assert "the river runs past the copper m" in shown
    assert "1. distance 0." in shown
    assert "notes.txt:3" in shown  # the other text that runs past the mill
    assert "notes.txt:1, tokens" not in shown  # its own document is no neighbor

    assert main(["inspect", "neighbors", "prepared", "--text", "violin garden"]) == 0
    shown = capsys.readouterr().out
    assert "your text\nviolin garden" in shown
    assert "<b>lantern</b>" in shown

    assert main(["inspect", "neighbors", "prepared", "--chunks", "[0, 1]", "--html", "page.html"]) == 0
    page = (folder / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<mark>" in page


def test_a_full_disk_ends_preparing_with_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["prepare", "-c", "data.yaml"]) == 2
    assert "No space left on device: 'prepared/" in (printed := capsys.readouterr().err)
    assert "make space, and the same command goes on from there" in printed
    assert not list(folder.rglob("*.partial"))
    assert main(["prepare", "-c", "data.yaml"]) == 0


def test_what_is_not_there_is_said_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "neighbors", "nowhere"]) == 2
    assert "nowhere: expected an index folder" in capsys.readouterr().err
    main(["prepare", "-c", "data.yaml"])
    assert main(["inspect", "neighbors", "prepared", "--split", "test"]) == 2
    assert "expected neighbor tables of the test split, got none" in capsys.readouterr().err
    assert main(["inspect", "neighbors", "prepared", "--chunks", "[8]"]) == 2
    assert "chunks: expected 0 to 7" in capsys.readouterr().err
    assert main(["inspect", "neighbors", "prepared", "--k", "0"]) == 2
    assert "k, number: expected at least 1, got 0 and 3" in capsys.readouterr().err


def test_the_page_marks_shared_words_and_escapes_everything(tmp_path: Path) -> None:
    found = Found(0.25, "chunk 3, <wiki>", "The Copper <mill>", "falls silent")
    write_page(tmp_path / "page.html", "a & b", [Shown("<title>", "copper mill & more", "it falls", [found])])
    page = (tmp_path / "page.html").read_text()
    assert "a &amp; b" in page
    assert "The <mark>Copper</mark> &lt;<mark>mill</mark>&gt;" in page
    assert "<mark>falls</mark> silent" in page
    assert "&lt;wiki&gt;" in page
    for forbidden in ("<mill>", "<wiki>", "<title><", "http"):
        assert forbidden not in page


def test_words_are_marked_whatever_their_case_and_short_ones_never() -> None:
    assert words("The river AND the Mill") == {"river", "mill"}
    assert list(pieces("a Mill.", {"mill"})) == [("a", False), (" ", False), ("Mill", True), (".", False)]
    assert "".join(piece for piece, _ in pieces("  x, y\n", set())) == "  x, y\n"
