"""The verb `evaluate`: tasks by name, results beside the paper's, nothing asked twice, and mistakes in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrolit.checkpoint import save_model
from retrolit.cli.main import main
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import build, prepare_index

CONFIG = GPTConfig(vocab_size=257, hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=512)
RECORD = {"question": "Where is Ulm?", "answers": ["on the Danube"], "ctxs": [{"title": "Ulm", "text": "Ulm."}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GPT, and files of two tasks; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    save_model(GPT(CONFIG), tmp_path / "gpt", ByteTokenizer())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nq.json").write_text(json.dumps([RECORD, RECORD]))
    (tmp_path / "data" / "qmsum.jsonl").write_text('{"input": "Why?\\n\\nBo: No.", "output": "He said no."}\n')
    return tmp_path


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--max_new_tokens", "4", "--template", "base", "--device", "cpu"])


def test_tasks_beside_the_papers_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("gpt", "--tasks", "nq", "qmsum", "--data", "data", "--output", "out")
    assert evaluate(*command) == 0
    out, error = capsys.readouterr()
    assert "NQ: 2 of 2" in error
    lines = out.splitlines()
    (row,) = [line.split() for line in lines if line.strip().startswith("NQ")]
    assert row == ["NQ", "2/2", "EM", "0.00", "37.7", "37.0", "38.9", "38.6"]
    (row,) = [line.split() for line in lines if line.strip().startswith("QMSum")]
    assert row[:3] == ["QMSum", "1/1", "ROUGE"]
    assert row[4:] == ["14.5", "15.06", "15.61"]
    results = json.loads((folder / "out" / "results.json").read_text())
    assert list(results["tasks"]) == ["nq", "qmsum"]
    assert results["tasks"]["nq"]["scores"]["exact_match"] == 0.0
    assert evaluate(*command) == 0
    assert capsys.readouterr() == (out, "")


def test_all_tasks_whose_files_are_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("gpt", "--data", "data", "--output", "out", "--limit", "1") == 0
    assert list(json.loads((folder / "out" / "results.json").read_text())["tasks"]) == ["nq", "qmsum"]
    assert "1/2" in capsys.readouterr().out


def test_a_retro_reads_neighbors_and_a_gpt_passages(folder: Path) -> None:
    prepare_index(folder / "prepared")
    save_model(build(), folder / "retro", ByteTokenizer())

    def sources(model: str, *options: object) -> tuple[list, list]:
        output = folder / f"out-{model}-{len(options)}"
        assert evaluate(model, "--tasks", "nq", "--data", "data", "--output", output, *options) == 0
        line = json.loads((output / "nq" / "predictions-0.jsonl").read_text().splitlines()[0])
        return line["contexts"], line["neighbors"]

    retrieved = ("--contexts", "retrieved", "--num_contexts", 3, "--retriever", "prepared")
    contexts, neighbors = sources("gpt", *retrieved)
    assert len(contexts) == 3
    assert all(source.startswith("notes") for source in contexts)
    assert neighbors == []
    assert sources("retro", "--retriever", "prepared")[1][-1]["sources"]
    assert sources("retro", "--retriever", "prepared", "--gate", 0) == (["Ulm"], [])
    beside = ("--encoder_contexts", 1, "--whole_prompt", "true", "--retriever", "prepared")
    assert sources("retro", *beside) == (["Ulm"], [])
    settings = json.loads((folder / "out-retro-6" / "nq" / "settings.json").read_text())
    assert (settings["encoder_contexts"], settings["whole_prompt"], settings["gate"]) == (1, True, 1.0)


def test_mistakes_end_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: object) -> str:
        assert evaluate(*arguments, "--output", "out") == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        return said

    assert "expected one of nq, triviaqa" in error("gpt", "--tasks", "nq", "nqs", "--data", "data")
    assert "expected the file of drop there" in error("gpt", "--tasks", "drop", "--data", "data")
    assert "expected the names of tasks for data/nq.json" in error("gpt", "--data", "data/nq.json")
    said = error("gpt", "--tasks", "nq", "--data", "data", "--contexts", "retrieved")
    assert "to retrieve them expected an index, got none; name it with --retriever FOLDER" in said
    said = error("gpt", "--tasks", "nq", "--data", "data", "--encoder_contexts", 2)
    assert "encoder_contexts: expected a Retro and a gate that is not 0, got a GPT" in said
    assert "nowhere" in error("nowhere", "--tasks", "nq", "--data", "data")
    assert "num_contexts: expected at least 1, got 0" in error("gpt", "--data", "data", "--num_contexts", "0")
