"""`retrolit run`: stages one after another, interrupted and started again, on the recipe's text and on one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrolit.checkpoint import save_model
from retrolit.cli.main import main
from retrolit.cli.run import run_names
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer

DATA = """\
folder: prepared
tokens:
  corpora:
    own:
      source: text.txt
      separator: ""
  tokenizer: {type: bytes}
  splits: {train: 1.0}
"""
PLAN = """\
corpus: data.yaml
stages:
  - does: text to tokens
    paper: section 3
    command: prepare -c recipes/data.yaml
  - does: a look
    command: inspect documents prepared --number 1
next: [look into FOLDER/prepared]
"""


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes, and a text beside where it is run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "data.yaml").write_text(DATA)
    (folder / "run.yaml").write_text(PLAN)
    (folder / "text.txt").write_text("a text that came with the recipe\n\nand a second one")
    return folder


def run(*arguments: str) -> int:
    return main(["run", *arguments])


def test_finished_stages_are_not_done_again(recipes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("own", "--folder", "there") == 0
    out, err = capfd.readouterr()
    assert "came with the recipe" in out or "and a second one" in out
    assert "[1/2] text to tokens  section 3" in err
    assert "look into there/prepared" in err
    stages = Path("there/stages.json").read_text()
    assert [stage["command"] for stage in json.loads(stages).values()].count("prepare -c recipes/data.yaml") == 1
    assert run("own", "--folder", "there") == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("done before") == 2
    assert Path("there/stages.json").read_text() == stages


def test_a_stage_that_fails_ends_the_run_which_goes_on_from_there(
    recipes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (recipes / "run.yaml").write_text(PLAN.replace("inspect documents prepared", "inspect documents elsewhere"))
    assert run("own", "--folder", "there") == 2
    err = capfd.readouterr().err
    assert "stage 2 (a look) ended with exit code 2" in err
    assert "the same command goes on from there" in err
    assert len(json.loads(Path("there/stages.json").read_text())) == 1
    assert run("own", "--folder", "there") == 2
    assert capfd.readouterr().err.count("done before") == 1


def test_what_the_recipes_say_counts(recipes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever else lies beside them."""
    assert run("own", "--folder", "there") == 0
    Path("there/recipes/notes").mkdir()
    capfd.readouterr()
    assert run("own", "--folder", "there") == 0
    assert capfd.readouterr().err.count("done before") == 2
    changed = Path("there/recipes/data.yaml")
    changed.write_text(changed.read_text() + "# a remark\n")
    assert run("own", "--folder", "there") == 0
    assert "done before" not in capfd.readouterr().err


def test_a_text_of_ones_own_takes_the_place_of_the_recipes(recipes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/first.txt").write_text("a text of my own")
    assert run("own", "--folder", "there", "--corpus", "mine") == 0
    assert "a text of my own" in capfd.readouterr().out
    assert str(Path("mine").resolve()) in Path("there/recipes/data.yaml").read_text()
    assert run("own", "--folder", "there", "--corpus", "mine") == 0
    assert run("own", "--folder", "there") == 0  # goes on with what is there
    Path("other.txt").write_text("another one")
    capfd.readouterr()
    assert run("own", "--folder", "there", "--corpus", "other.txt") == 2
    assert "is about another text than --corpus other.txt; name another --folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("plan", "data", "arguments", "message"),
    [
        (PLAN, DATA, ["nothing"], "nothing: expected a folder of recipes with a run.yaml, e.g. "),
        (PLAN, DATA, ["own", "--corpus", "no.txt"], "--corpus no.txt: expected a file or folder of text"),
        (PLAN.replace("corpus: data.yaml\n", ""), DATA, ["own", "--corpus", "own"], "names no recipe with a corpus"),
        (PLAN, "folder: x\n", ["own", "--corpus", "own"], "expected a line `source: ...` to replace"),
        ("stages: []", DATA, ["own"], "stages: expected a list of at least one, got []"),
        ("corpus: data.yaml", DATA, ["own"], "but it lacks stages"),
        (PLAN + "colour: red", DATA, ["own"], "but it has an unknown colour"),
        (
            "stages: [{does: nothing}]",
            DATA,
            ["own"],
            "stage 1: expected the fields of a stage (does, command, paper, asks, says)",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    recipes: Path, capfd: pytest.CaptureFixture[str], plan: str, data: str, arguments: list[str], message: str
) -> None:
    (recipes / "run.yaml").write_text(plan)
    (recipes / "data.yaml").write_text(data)
    assert run(*arguments, "--folder", "there") == 2
    assert message in capfd.readouterr().err
    assert not Path("there/stages.json").exists()


def test_what_a_stage_asks_and_says_is_typed_into_its_command(recipes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    decoder = GPTConfig(vocab_size=257, hidden_size=8, num_layers=1, num_attention_heads=1, max_position_embeddings=64)
    save_model(GPT(decoder), recipes / "model", ByteTokenizer())
    chat = "chat ../own/model --max-new-tokens 2"
    (recipes / "run.yaml").write_text(f"stages: [{{does: talk, command: {chat}, says: /help}}]")
    assert run("own", "--folder", "there") == 0
    assert "begin a new conversation with this system message" in "".join(capfd.readouterr())
    for questions, replies in (('{"question": "What is\\nit?"}\n{"question": "And that?"}\n', 1), ("", 0)):
        (recipes / "questions.jsonl").write_text(questions)
        stage = f"does: talk, command: {chat}, asks: ../own/questions.jsonl, says: /help"
        (recipes / "run.yaml").write_text(f"stages: [{{{stage}}}]")
        assert run("own", "--folder", f"asked-{replies}") == 0
        told = "".join(capfd.readouterr())
        assert "begin a new conversation with this system message" in told
        assert told.count("> What is it?") == replies
        assert "> /help" in told
        assert "And that?" not in told


def test_the_quickstart_can_be_run() -> None:
    assert {"quickstart", "tiny"} <= set(run_names())
