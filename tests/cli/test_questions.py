"""`retrolit questions`: three files about the documents that a data.yaml trains on, for tuning and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrolit.cli.main import main
from retrolit.tokens.splits import split_name, text_hash

SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
DATA = f"""\
folder: prepared
tokens:
  corpora:
    notes: {{ source: notes.jsonl }}
    library: {{ source: library.jsonl, database_only: true }}
  tokenizer: {{ type: bytes }}
  splits: {json.dumps(SPLITS)}
retrieval: {{ chunk_length: 16 }}
"""
OWLS = [f"Owl {number}\n\nIt keeps the lamp of house {number}, and sleeps.\n\nMore of it." for number in range(60)]
BOOKS = [f"Book {number}\n\nIt tells of owls, of lamps and of house {number}." for number in range(9)]


@pytest.fixture(autouse=True)
def data_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("notes.jsonl", [*OWLS, OWLS[0], "Owl\n\nshort"])
    write("library.jsonl", BOOKS)
    Path("data.yaml").write_text(DATA)


def write(name: str, texts: list[str]) -> None:
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_each_document_of_the_database_is_asked_about_once(capsys: pytest.CaptureFixture[str]) -> None:
    shares = ["--validation", "0.2", "--test", "0.3"]
    assert main(["questions", "-c", "data.yaml", "--output", "questions", *shares]) == 0
    rows = {path.stem: [json.loads(line) for line in path.open()] for path in sorted(Path("questions").iterdir())}
    assert list(rows) == ["test", "train", "validation"]
    assert all(len(found) > 3 for found in rows.values())
    said = capsys.readouterr().out
    assert all(f"questions/{name}.jsonl  {len(found)} questions" in said for name, found in rows.items())
    trained = [text for text in OWLS if split_name(text_hash(text.encode()), SPLITS) == "train"]
    assert len(trained) < len(OWLS)
    asked = [row for found in rows.values() for row in found]
    openings = [text.removesuffix("\n\nMore of it.") for text in [*trained, *BOOKS]]
    assert sorted(row["answers"][0] for row in asked) == sorted(openings)
    for row in asked:
        assert row["answers"][0].split("\n")[0] in row["question"]
    assert not Path("prepared").exists()
    before = {path: path.read_bytes() for path in Path("questions").iterdir()}
    write("notes.jsonl", OWLS[::-1])
    assert main(["questions", "-c", "data.yaml", "--output", "questions", *shares]) == 0
    again = {path: path.read_bytes() for path in Path("questions").iterdir()}
    assert {path: set(text.splitlines()) for path, text in again.items()} == {
        path: set(text.splitlines()) for path, text in before.items()
    }


def test_documents_that_say_too_little_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("notes.jsonl", ["short"])
    write("library.jsonl", ["shorter"])
    assert main(["questions", "-c", "data.yaml", "--output", "questions"]) == 2
    assert "expected documents with an opening of a sentence or more, got none" in capsys.readouterr().err
    assert not Path("questions").exists()
