"""retrolit inspect documents: any store, with and without its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrolit.cli.main import main
from retrolit.tokens import ByteTokenizer, write_store
from retrolit.tokens.prepare import CorpusConfig, TokenizerConfig, TokensConfig, prepare_tokens


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("the first [bold]note[/bold]\n\nthe second note\n\n" + "long " * 1000)
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), separator="", split="train")}
    prepare_tokens(TokensConfig(corpora, TokenizerConfig("bytes")), tmp_path / "prepared")
    return tmp_path / "prepared"


def test_documents_of_a_prepared_folder(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "documents", str(prepared)]) == 0
    shown = capsys.readouterr().out
    assert "3 documents, 5,045 tokens (uint16)" in shown
    assert "notes.txt:1: document 0, 28 tokens\nthe first [bold]note[/bold]\n" in shown
    assert "... (5,000 characters)" in shown
    [folder] = prepared.glob("tokens/*")
    assert main(["inspect", "documents", str(folder), "--number", "1", "--start", "1"]) == 0
    shown = capsys.readouterr().out
    assert "the second note" in shown
    assert "document 0" not in shown
    assert "document 2" not in shown


def test_documents_of_a_store_from_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "x", [[104, 105, 256]], 257)
    assert main(["inspect", "documents", str(tmp_path / "x")]) == 0
    assert "104 105 256\n" in capsys.readouterr().out
    ByteTokenizer().save(tmp_path / "tokenizer")
    assert main(["inspect", "documents", str(tmp_path / "x"), "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    assert "\nhi\n" in capsys.readouterr().out


def test_nothing_there_is_told(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "documents", str(prepared), "--split", "dev"]) == 2
    assert "got no dev.idx there; make one with: retrolit prepare" in capsys.readouterr().err
