"""Tasks are data: the paper's are all there, a file of one's own is one, and questions are asked as the paper asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrolit.evaluation.task import Task, find_file, load_task, task_names
from retrolit.evaluation.task_files import Example
from retrolit.tokens import ByteTokenizer
from retrolit.tokens.chat_template import load_chat_template
from retrolit.tokens.conversation import Context, Message
from retrolit.tokens.jinja_template import JinjaTemplate

TOWN = Example("1", "where is ulm?", ("Germany",), (Context("Ulm", "A town."), Context("", "It rained.")))
SYSTEM = (
    "System: This is a chat between a user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions based on the context. The assistant should also indicate "
    "when the answer cannot be found in the context.\n\n"
)


def asked(task: str, example: Example, template: str = "instructretro") -> str:
    written, tokenizer = load_chat_template(template), ByteTokenizer()
    conversation = load_task(task).conversation(example, example.contexts, written)
    return tokenizer.decode(written.prompt(conversation, tokenizer, 4096))


def test_the_papers_tasks_are_all_there() -> None:
    files = sorted(path.stem for path in Path(load_task.__code__.co_filename).parent.glob("tasks/*.yaml"))
    assert files == sorted(task_names())
    tasks = [load_task(name) for name in task_names()]
    assert [task.name for task in tasks if task.unanswerable] == ["squad2"]
    assert [task.name for task in tasks if task.score == "rouge"] == ["govreport", "summscreen", "qmsum"]
    for task in tasks:
        assert task.published
        for name, models in task.published.items():
            assert name in ("exact_match", "f1", "first_f1", "rouge")
            assert "InstructRetro 43B" in models


def test_questions_are_asked_as_the_paper_asks() -> None:
    contexts = "title: Ulm, source: A town.\n\ntitle: , source: It rained.\n\n"
    short = "User: Answer the following question with a short span. where is ulm?\n\nAssistant: The answer is"
    assert asked("nq", TOWN) == f"{SYSTEM}{contexts}{short}"
    assert asked("nq", TOWN, "base") == f"{contexts}Question: where is ulm? Answer: The answer is"
    report = Example("1", "", ("S",), (Context("T", "R"),))
    assert asked("govreport", report) == (
        f"{SYSTEM}title: T, source: R\n\nUser: Please give a full and complete answer for the question. "
        "Write a summary of the report.\n\nAssistant:"
    )
    talk = Example("1", "when?", ("Now.",), (), (Message("user", "Hi"), Message("assistant", "Hello!")))
    assert asked("doc2dial", talk) == f"{SYSTEM}User: Hi\n\nAssistant: Hello!\n\nUser: when?\n\nAssistant:"


def test_a_template_without_forms_gets_them_in_the_question() -> None:
    template = JinjaTemplate("hf", "{{ messages[0].content }}", {}, [])
    conversation = load_task("nq").conversation(TOWN, (), template)
    assert conversation.messages[0].content == "Answer the following question with a short span. where is ulm?"
    assert conversation.answer_form == ""


def test_a_refusal_is_the_answer_where_there_may_be_none() -> None:
    said = " Sorry, that cannot be found in the context."
    assert load_task("squad2").prediction(said) == ""
    assert load_task("squad").prediction(said) == said.strip()
    assert load_task("squad2").prediction(" 10th century.") == "10th century."


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "ropes.yaml"
    path.write_text("title: ROPES\nscore: answers\nanswer_form: short\n")
    task = load_task(str(path))
    assert task == Task("ropes", "ROPES", "answers", "short")
    assert task.score_one("the Sea", ["sea"]) == {"exact_match": 1.0, "f1": 1.0, "first_f1": 1.0}
    path.write_text("title: ROPES\nscores: answers\n")
    with pytest.raises(
        ValueError, match=r"ropes\.yaml: expected the fields of a task \(title.*\), but it lacks score, has"
    ):
        load_task(str(path))
    path.write_text("title: ROPES\nscore: bleu\n")
    with pytest.raises(ValueError, match=r"task ropes: score: expected one of 'answers', 'rouge', got 'bleu'"):
        load_task(str(path))
    with pytest.raises(ValueError, match=r"tasks: expected one of nq, triviaqa, .* or a task's \.yaml file, got rope"):
        load_task("rope")


def test_where_a_tasks_file_is_found(tmp_path: Path) -> None:
    task = Task("squad", "SQuAD", "answers", files=["**/dev-v1.1.json*"])
    with pytest.raises(FileNotFoundError, match=r"expected the file of squad there, got none of squad\.json\*, "):
        find_file(task, tmp_path)
    for name in ("squad/one.json.gz", "squad/notes.txt", "deep/er/dev-v1.1.json", "squad.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        if name == "squad/notes.txt":
            assert find_file(task, tmp_path) == tmp_path / "squad/one.json.gz"
        elif name.startswith("deep"):
            assert find_file(task, tmp_path) == tmp_path / name
    assert find_file(task, tmp_path) == tmp_path / "squad.jsonl"
    assert find_file(task, tmp_path / "squad/one.json.gz") == tmp_path / "squad/one.json.gz"
    (tmp_path / "squad.jsonl").unlink()
    (tmp_path / "dev-v1.1.json.gz").touch()
    with pytest.raises(ValueError, match=r"holds several files of squad, name one: .*, .*dev-v1\.1\.json"):
        find_file(task, tmp_path)
