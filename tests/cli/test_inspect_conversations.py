"""retrolit prepare and retrolit inspect batch on conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrolit.cli.main import main

SAMPLES = Path(__file__).parents[2] / "data/samples/conversations"

DATA = """
folder: prepared
conversations:
  corpora:
    qa: {{ source: {samples}/nvidia-qa.json, split: train }}
    trees: {{ source: {samples}/openassistant.jsonl, split: train }}
  tokenizer: {{ type: bytes }}
  max_length: {max_length}
  num_neighbors: 1
"""

RECIPE = """
data:
  class_path: InstructionData
  init_args: { data: data.yaml, sequence_length: 1280, global_batch_size: 8, packed: true, num_neighbors: 1 }
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("data.yaml").write_text(DATA.format(samples=SAMPLES, max_length=641))
    Path("recipe.yaml").write_text(RECIPE)
    return Path("recipe.yaml")


def test_prepare_tells_what_is_trained(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "-c", "data.yaml"]) == 0
    shown = capsys.readouterr().out
    assert " 3 conversations" in shown
    assert "validation no conversations" in shown
    assert "look        retrolit inspect batch RECIPE" in shown
    Path("data.yaml").write_text(DATA.format(samples=SAMPLES, max_length=250))
    assert main(["prepare", "-c", "data.yaml"]) == 0
    assert "too long and left out" in capsys.readouterr().out


def test_prepare_needs_text_or_conversations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "x"]) == 2
    assert "expected tokens, perhaps with retrieval, or conversations" in capsys.readouterr().err


def test_a_batch_shows_borders_and_what_is_trained(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "batch", str(recipe), "--number", "8"]) == 0
    shown = capsys.readouterr().out
    assert "step 0: samples 0 to 7" in shown
    assert shown.count("--- ") > 8, "conversations share a sample"
    assert "| Every second morning<|endoftext|>|" in shown
    assert "neighbor of its chunks: title: The lamp, source: The lamp is cleaned every second morning." in shown
    assert " tokens trained, " in shown
