"""retrolit prepare: what a user sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from retrolit.cli.main import main
from retrolit.tokens import train_bpe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus and a data.yaml, as the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "notes.txt").write_text("\n".join(f"note number {i}\n***" for i in range(60)))
    (tmp_path / "data.yaml").write_text("""
folder: prepared/notes
tokens:
  corpora: {notes: {source: notes.txt, separator: "***"}}
  tokenizer: {type: bytes}
  splits: {train: 0.8, validation: 0.1, test: 0.1}
""")
    return tmp_path / "data.yaml"


def test_prepare_says_what_it_made_and_what_comes_next(data_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    first = capsys.readouterr()
    assert "prepared/notes/tokens/notes-" in first.out
    assert "documents" in first.out
    assert "retrolit inspect documents prepared/notes" in first.out
    assert "tokenizing notes:" in first.err
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == "", "nothing is done twice"


def test_prepare_tells_what_goes_to_the_database_alone(data_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": f"note number {i} of the notebook"}) for i in range(60)]
    Path("notes.jsonl").write_text("\n".join(lines))
    text = data_yaml.read_text().replace(
        '{notes: {source: notes.txt, separator: "***"}}',
        "{notes: {source: notes.jsonl}, library: {source: notes.jsonl, database_only: true}}",
    )
    data_yaml.write_text(text)
    assert main(["prepare", "-c", str(data_yaml)]) == 2
    assert "library: database_only, but there is no `retrieval:` part" in capsys.readouterr().err
    data_yaml.write_text(text + "retrieval: {chunk_length: 8, embedder: {dimension: 16}}\n")
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    shown = capsys.readouterr().out
    assert "copies of validation and test documents left out" in shown
    assert re.search(r"\n  database +\d+ documents ", shown)
    assert main(["inspect", "documents", "prepared/notes", "--split", "database"]) == 0
    assert "/database: " in capsys.readouterr().out


def test_other_machines_leave_when_their_share_is_done(
    data_yaml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    assert "rank 1 of 2: my share of the blocks is done; rank 0 finishes" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    assert "retrolit fit" in capsys.readouterr().out


def test_a_check_reads_what_is_finished_and_makes_the_changed_again(
    data_yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    train = next(Path("prepared/notes/tokens").glob("*/train.bin"))
    whole = train.read_bytes()
    train.write_bytes(whole[:-1] + b"x")
    assert main(["prepare", "-c", str(data_yaml)]) == 0
    assert train.read_bytes() != whole
    assert main(["prepare", "-c", str(data_yaml), "--check", "true"]) == 0
    assert train.read_bytes() == whole
    assert "train.bin: its checksum is not the one in manifest.json" in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["prepare", "-c", str(data_yaml), "--check", "true"]) == 2
    assert "check: expected one process, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("source: nowhere.txt", "nowhere.txt: expected a file, folder or glob"),
        ("source: notes.txt, on_error: perhaps", "on_error"),
        ("source: notes.txt, colour: red", "colour"),
        ("source: notes.txt, split: test, weight: -1", "CorpusConfig.weight: expected more than 0, got -1"),
    ],
)
def test_mistakes_are_told_in_a_line_or_two(
    line: str, message: str, data_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_yaml.write_text(f"""
folder: prepared/notes
tokens:
  corpora: {{notes: {{{line}}}}}
  tokenizer: {{type: bytes}}
""")
    try:
        code = main(["prepare", "-c", str(data_yaml)])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_tokenizer_that_changes_texts_is_pointed_out(
    data_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_bpe([f"note number {i}" for i in range(100)], 280).save(tmp_path / "lower")
    content = json.loads((tmp_path / "lower/tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "lower/tokenizer.json").write_text(json.dumps(content))
    for folder, is_told in (("lower", True), ("bytes", False)):
        tokenizer = f"{{type: file, path: {folder}}}" if is_told else "{type: bytes}"
        data_yaml.write_text(data_yaml.read_text().replace("{type: bytes}", tokenizer))
        assert main(["prepare", "-c", str(data_yaml)]) == 0
        assert ("this tokenizer changes some texts" in capsys.readouterr().out) == is_told
        data_yaml.write_text(data_yaml.read_text().replace(tokenizer, "{type: bytes}"))


@pytest.mark.parametrize("recipe", ["recipes/tiny/data.yaml", "data/samples/blend.yaml"])
def test_shipped_data_files_work(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["prepare", "-c", recipe, str(tmp_path / "p")]) == 0
    assert list((tmp_path / "p").glob("tokens/*/train.bin"))
