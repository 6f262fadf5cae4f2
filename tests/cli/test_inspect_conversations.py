"""retrolit prepare and retrolit inspect batch on conversations."""

from __future__ import annotations

import re
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

INDEX = """
folder: index
tokens:
  corpora:
    notes: { source: notes.txt, separator: "", split: train }
  tokenizer: { type: bytes }
retrieval: { embedder: { dimension: 32 } }
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
    shown_neighbor = r"neighbor of tokens 0-\d+: title: The lamp, source: The lamp is cleaned every second morning\."
    assert re.search(shown_neighbor, shown)
    assert " tokens trained, " in shown


def test_a_batch_shows_what_was_retrieved_for_each_chunk(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From text to an index, from that and conversations to a table, and what a model reads of it."""
    Path("notes.txt").write_text("\n\n".join(f"Note {number}: an owl keeps the lamp." for number in range(9)))
    Path("index.yaml").write_text(INDEX)
    assert main(["prepare", "-c", "index.yaml"]) == 0
    Path("data.yaml").write_text(DATA.format(samples=SAMPLES, max_length=641) + "  retrieval: index\n  num_saved: 3\n")
    assert main(["prepare", "-c", "data.yaml"]) == 0
    assert "trees train: " in capsys.readouterr().out
    assert main(["inspect", "batch", str(recipe), "--number", "8"]) == 0
    shown = capsys.readouterr().out
    assert "neighbor of tokens 0-" in shown
    assert re.search(r"openassistant.*\n(.*\n)*neighbor of tokens 0-\d+: Note \d: an owl keeps the lamp\.", shown)


def test_a_recipe_with_its_files_beside_it_is_read_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = Path(__file__).parents[2] / "recipes" / "tiny"
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "-c", str(recipes / "data-instruct.yaml")]) == 0
    assert " 37 conversations" in capsys.readouterr().out
    assert (tmp_path / "prepared/tiny-instruct").is_dir()
    assert main(["inspect", "batch", str(recipes / "instruct.yaml"), "--number", "1"]) == 0
    assert "conversations.jsonl:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", str(recipes / "instruct.yaml"), "--print_config"])
    assert f"source: {recipes / 'conversations.jsonl'}" in capsys.readouterr().out
