"""A task's run goes on where it was cut off, asks nothing twice, and scores what the generator itself writes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retrolit.evaluation.found import found_scores
from retrolit.evaluation.predictions import PredictionFolder
from retrolit.evaluation.task import Task
from retrolit.evaluation.task_files import read_examples
from retrolit.evaluation.task_run import Asking, Writer, choose, run_task
from retrolit.generation import Generation, Generator, GivenNeighbors, SamplingConfig
from retrolit.models import GPT
from retrolit.retrieval import LiveRetriever
from retrolit.storage import Share
from retrolit.tokens import ByteTokenizer, train_bpe
from retrolit.tokens.chat_template import load_chat_template
from tests.generation.small_retro import DECODER, build, prepare_index

TASK = Task("towns", "Towns", "answers", answer_form="short", num_contexts=1)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    records = [
        {"id": f"t{n}", "question": f"town {n}?", "answers": [f"x{n}"], "ctxs": [{"title": f"T{n}", "text": "z" * n}]}
        for n in range(7)
    ]
    (tmp_path / "towns.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path / "towns.jsonl"


class CountingWriter(Writer):
    """A small GPT; how often it was opened."""

    def __init__(self, **settings: Any) -> None:
        self.opened = 0
        super().__init__(self.make, settings)

    def make(self) -> Generator:
        self.opened += 1
        torch.manual_seed(5)
        return Generator(GPT(DECODER), ByteTokenizer())


def asking(**changes: Any) -> Asking:
    return Asking(load_chat_template("base"), **{"max_new_tokens": 6, "batch_size": 2, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_predictions_and_scores_are_those_of_the_generator(questions: Path, tmp_path: Path) -> None:
    told: list[str] = []
    writer = CountingWriter()
    results = run_task(TASK, questions, tmp_path / "out", asking(), writer, told.append)
    assert results is not None
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert told == [f"Towns: {done} of 7" for done in (2, 4, 6, 7)]
    written = {line["id"]: line for line in lines(tmp_path / "out" / "predictions-0.jsonl")}
    scored = lines(tmp_path / "out" / "scores.jsonl")
    assert [line["id"] for line in scored] == [f"t{n}" for n in range(7)]
    n, generator = 3, writer.make()
    prompt = f"title: T{n}, source: {'z' * n}\n\nQuestion: town {n}? Answer: The answer is"
    (made,) = generator.generate([prompt], SamplingConfig(max_new_tokens=6, temperature=0, stop="."))
    line = written[f"t{n}"]
    assert (line["prompt"], line["text"], line["contexts"], line["neighbors"]) == (prompt, made.text, [f"T{n}"], [])
    assert scored[n]["prediction"] == made.text.strip()
    scores = TASK.score_all(
        [TASK.score_one(line["prediction"], line["answers"]) for line in scored], [line["answers"] for line in scored]
    )
    found = found_scores([line["read"] for line in written.values()], [line["answers"] for line in scored])
    assert results["scores"] == scores | found
    assert set(found) == {"in_contexts", "in_others_contexts"}
    assert (results["examples"], results["of"]) == (7, 7)
    earlier = [{key: value for key, value in line.items() if key != "read"} for line in written.values()]
    (tmp_path / "out" / "predictions-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in earlier))
    again = run_task(TASK, questions, tmp_path / "out", asking(), CountingWriter())
    assert again == results | {"scores": scores}, "of predictions of an earlier version"


def test_a_run_that_was_cut_off_goes_on(questions: Path, tmp_path: Path) -> None:
    whole = run_task(TASK, questions, tmp_path / "whole", asking(), CountingWriter())
    writer, folder = CountingWriter(), tmp_path / "cut"
    run_task(TASK, questions, folder, asking(limit=4), writer)
    path = folder / "predictions-0.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 20])  # in the middle of the last line
    assert len(PredictionFolder(folder, json.loads((folder / "settings.json").read_text())).read()) == 3
    assert run_task(TASK, questions, folder, asking(), writer) == whole
    assert sorted(line["id"] for line in lines(path)) == [f"t{n}" for n in range(7)], "nothing was asked twice"
    assert writer.opened == 2
    assert run_task(TASK, questions, folder, asking(batch_size=7), writer) == whole
    assert writer.opened == 2, "a finished task needs no model"


def test_other_settings_are_refused_by_name(questions: Path, tmp_path: Path) -> None:
    run_task(TASK, questions, tmp_path / "out", asking(limit=1), CountingWriter(model="one"))
    for changed, told in (
        ({"max_new_tokens": 5}, "max_new_tokens 6, now 5"),
        ({"contexts": "none"}, "contexts given, now none"),
        ({"num_contexts": 3}, "num_contexts 1, now 3"),
    ):
        with pytest.raises(
            ValueError, match=f"out: expected the settings .*, got {told}; choose another output folder"
        ):
            run_task(TASK, questions, tmp_path / "out", asking(**changed), CountingWriter(model="one"))
    with pytest.raises(ValueError, match="model one, now two; gate None, now 0"):
        run_task(TASK, questions, tmp_path / "out", asking(), CountingWriter(model="two", gate=0))
    (tmp_path / "out" / "predictions-0.jsonl").write_bytes(b"{\n")
    with pytest.raises(ValueError, match=r"predictions-0\.jsonl: expected JSON lines, got something else"):
        run_task(TASK, questions, tmp_path / "out", asking(), CountingWriter(model="one"))


def test_processes_share_the_questions(questions: Path, tmp_path: Path) -> None:
    whole = run_task(TASK, questions, tmp_path / "whole", asking(), CountingWriter())
    folder = tmp_path / "shared"
    assert run_task(TASK, questions, folder, asking(), CountingWriter(), share=Share(1, 2)) is None
    assert run_task(TASK, questions, folder, asking(), CountingWriter(), share=Share(0, 2)) == whole
    ids = [{line["id"] for line in lines(folder / f"predictions-{rank}.jsonl")} for rank in (0, 1)]
    assert [len(own) for own in ids] == [4, 3]
    assert not ids[0] & ids[1]


def test_a_limit_takes_from_all_over_and_a_larger_one_adds(questions: Path) -> None:
    examples = read_examples(questions)
    kept = [{example.id for example in choose(examples, limit)} for limit in range(1, 9)]
    assert [len(ids) for ids in kept] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(kept))
    assert kept[2] != {"t0", "t1", "t2"}
    assert choose(examples, None) == examples


def test_what_does_not_fit_is_named(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        asking(limit=0)
    (tmp_path / "bare.jsonl").write_text('{"id": "b", "question": "q", "answers": []}\n')
    with pytest.raises(ValueError, match=r"bare\.jsonl: expected a reference for every .* towns, got none for b"):
        run_task(TASK, tmp_path / "bare.jsonl", tmp_path / "out", asking(), CountingWriter())
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "l", "question": "q" * 300, "answers": ["a"]}) + "\n")
    with pytest.raises(ValueError, match="towns: l: prompt: expected a last question of at most 250 tokens, got more"):
        run_task(TASK, tmp_path / "long.jsonl", tmp_path / "out", asking(), CountingWriter())


class RecordingGenerator(Generator):
    """Remembers what was given with the prompts."""

    given: GivenNeighbors | None = None

    def generate(self, *arguments: Any, given: GivenNeighbors | None = None) -> list[Generation]:
        self.given = given
        return super().generate(*arguments, given=given)


def test_the_encoder_reads_contexts_beside_the_prompt(tmp_path: Path) -> None:
    """The first 2 of 3, of which the prompt has 1."""
    contexts = [{"title": f"T{n}", "text": f"copper {n}"} for n in range(3)]
    record = {"id": "e", "question": "violin", "answers": ["a"], "ctxs": contexts}
    (tmp_path / "e.jsonl").write_text(json.dumps(record) + "\n")
    generator = RecordingGenerator(build(), ByteTokenizer())
    reading = asking(encoder_contexts=2, whole_prompt=True, gate=0.5)
    run_task(TASK, tmp_path / "e.jsonl", tmp_path / "out", reading, Writer(lambda: generator))
    (line,) = lines(tmp_path / "out" / "predictions-0.jsonl")
    assert line["prompt"].count("copper") == 1
    assert line["contexts"] == ["T0", "T1"]
    encoded = [ByteTokenizer().encode(f"title: T{n}, source: copper {n}") for n in range(2)]
    assert generator.given == GivenNeighbors([encoded], 0.5, whole_prompt=True)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (settings["encoder_contexts"], settings["whole_prompt"], settings["gate"]) == (2, True, 0.5)
    run_task(TASK, tmp_path / "e.jsonl", tmp_path / "without", asking(), Writer(lambda: generator))
    assert generator.given is None
    with pytest.raises(ValueError, match="encoder_contexts: expected at least 0, got -1"):
        asking(encoder_contexts=-1)
    with pytest.raises(ValueError, match=r"whole_prompt: expected encoder_contexts, .* got none"):
        asking(whole_prompt=True)


def test_an_answer_ends_with_the_special_token_that_ends_a_turn(questions: Path, tmp_path: Path) -> None:
    """The first token that the model writes is made the one that ends a turn."""
    tokenizer = train_bpe(["owls and towns"], 262, ["<|im_start|>", "<|im_end|>"])
    torch.manual_seed(5)
    model = GPT(replace(DECODER, vocab_size=262, tied_embeddings=False))
    reading = Asking(load_chat_template("special-tokens"), max_new_tokens=6, limit=1)
    end = tokenizer.special_tokens["<|im_end|>"]
    for name in ("before", "after"):
        folder = tmp_path / name
        run_task(TASK, questions, folder, reading, Writer(lambda: Generator(model, tokenizer)))
        (line,) = lines(folder / "predictions-0.jsonl")
        assert line["prompt"].endswith("assistant\nThe answer is ")
        if name == "before":
            assert line["finish_reason"] == "length"
            example = next(one for one in read_examples(questions) if one.id == line["id"])
            conversation = TASK.conversation(example, example.contexts[:1], reading.template)
            prompt = reading.template.prompt(conversation, tokenizer, 250, 1)
            first = Generator(model, tokenizer).generate([prompt], SamplingConfig(max_new_tokens=1, temperature=0))
            rows = [end, first[0].tokens[0]]
            with torch.no_grad():
                model.output_weight[rows] = model.output_weight[rows[::-1]]
        else:
            assert (line["finish_reason"], line["text"]) == ("end", "")


def test_contexts_are_retrieved_and_a_retro_reads_neighbors(questions: Path, tmp_path: Path) -> None:
    retriever = LiveRetriever(prepare_index(tmp_path / "prepared"))
    questions.write_text(json.dumps({"id": "r", "question": "copper violin", "answers": ["a"]}) + "\n")
    writer = Writer(lambda: Generator(build(), ByteTokenizer(), retriever, num_neighbors=2), passages=lambda: retriever)
    results = run_task(TASK, questions, tmp_path / "out", asking(contexts="retrieved", num_contexts=2), writer)
    assert results is not None
    (line,) = lines(tmp_path / "out" / "predictions-0.jsonl")
    found = retriever.retrieve_text(["copper violin"], 2)
    assert line["contexts"] == [retriever.source(int(id)) for id in found.ids[0]]
    text = ByteTokenizer().decode(found.tokens[0, 0][found.mask[0, 0]].tolist())
    assert line["prompt"].startswith(f"title: , source: {text}\n\ntitle: , source: ")
    assert len(line["neighbors"][1]["sources"]) == 2
    assert all(source.startswith("notes") for source in line["neighbors"][1]["sources"])
