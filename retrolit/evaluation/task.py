"""A task: which data, how the model is asked, how what it writes is scored, and what was published for it.

Each of the paper's tasks is one small .yaml file in tasks/; a file of your own is a task just as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from retrolit.evaluation.answers import Scores, answer_scores, clean_answer, mean_scores, refuses
from retrolit.evaluation.rouge import mean_rouge, rouge_scores
from retrolit.evaluation.task_files import ENDINGS, Example
from retrolit.tokens.chat_template import ChatTemplate
from retrolit.tokens.compression import strip_compression
from retrolit.tokens.conversation import Context, Conversation, Message
from retrolit.tokens.text_template import TextTemplate
from retrolit.tokens.yaml_fields import checked_fields

# For a template that has no forms of answers of its own (a Hugging Face tokenizer's).
QUESTIONS = {
    "short": "Answer the following question with a short span. {}",
    "long": "Please give a full and complete answer for the question. {}",
}
BASE = "base"
"""The template for models that were not tuned to answer."""


@dataclass
class Task:
    """One task. Raises ValueError where a field has an impossible value."""

    name: str
    """What it is called on the command line."""

    title: str
    """For tables."""

    score: Literal["answers", "rouge"]
    """answers: exact match and F1; rouge: ROUGE-1, ROUGE-2, ROUGE-L and their geometric mean."""

    answer_form: Literal["short", "long", ""] = ""
    """How the chat template asks for the answer; as the data have it when empty."""

    question: str = ""
    """What is asked, where the data ask nothing."""

    num_contexts: int = 1
    """How many of an example's contexts are read."""

    unanswerable: bool = False
    """Some questions have no answer: saying so is the right one, and SQuAD 2.0's rules hold."""

    files: list[str] = field(default_factory=list)
    """Where its file may lie in a data folder, as globs; <name>.json(l) and a lone file in <name>/ always."""

    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """Name of a score -> model -> what the paper says; the first score is the task's main one."""

    def __post_init__(self) -> None:
        for name, allowed in (("score", ("answers", "rouge")), ("answer_form", ("short", "long", ""))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"task {self.name}: {name}: expected one of {', '.join(map(repr, allowed))}, got "
                    f"{getattr(self, name)!r}"
                )

    @classmethod
    def load(cls, path: Path) -> Task:
        """The task in a .yaml file. Raises ValueError where fields are missing or unknown."""
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(name=path.stem, **checked_fields(cls, content, str(path), "a task", given_elsewhere=("name",)))

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what the model is asked, in JSON's types."""
        return {name: value for name, value in asdict(self).items() if name in ("answer_form", "question")}

    def conversation(
        self, example: Example, contexts: Sequence[Context], template: ChatTemplate
    ) -> Conversation:  # fmt: skip
        """What the model is asked."""
        question, form = example.question or self.question, self.answer_form
        if form and not (isinstance(template, TextTemplate) and form in template.answers):
            question, form = QUESTIONS[form].format(question), ""
        return Conversation([*example.turns, Message("user", question)], contexts, example.id, form)

    def prediction(self, text: str) -> str:
        """What the model wrote, as it is scored; "" where it says that there is no answer and that may be right."""
        cleaned = clean_answer(text)
        return "" if self.unanswerable and refuses(cleaned) else cleaned

    def score_one(self, prediction: str, answers: Sequence[str]) -> Scores:
        """The scores of one example."""
        if self.score == "rouge":
            return rouge_scores(prediction, answers)
        return answer_scores(prediction, answers, self.unanswerable)

    def score_all(self, scores: Sequence[Scores], answers: Sequence[Sequence[str]]) -> dict[str, float]:
        """The scores of the task in percent."""
        return mean_rouge(scores) if self.score == "rouge" else mean_scores(scores, answers, self.unanswerable)


def task_names() -> list[str]:
    """The paper's tasks, as they stand in its tables."""
    return [
        "nq", "triviaqa", "newsqa", "squad2", "squad", "quoref", "narrativeqa", "drop", "doc2dial", "govreport",
        "summscreen", "qmsum",
    ]  # fmt: skip


def load_task(name: str) -> Task:
    """The paper's task of this name, or that in a .yaml file. Raises ValueError where there is none."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Task.load(path)
    if name not in task_names():
        raise ValueError(f"tasks: expected one of {', '.join(task_names())}, or a task's .yaml file, got {name}")
    return Task.load(Path(str(files("retrolit.evaluation"))) / "tasks" / f"{name}.yaml")


def find_file(task: Task, data: str | Path) -> Path:
    """The file of a task: `data` itself, or the one in that folder.

    Raises FileNotFoundError where there is none, ValueError where there are several.
    """
    data = Path(data)
    if data.is_file():
        return data
    wanted = [*(f"{task.name}{ending}*" for ending in ENDINGS), *task.files, f"{task.name}/*"]
    for pattern in wanted:
        found = sorted(file for file in data.glob(pattern) if strip_compression(file.name)[0].endswith(ENDINGS))
        if len(found) > 1:
            raise ValueError(f"{data}: holds several files of {task.name}, name one: {', '.join(map(str, found))}")
        if found:
            return found[0]
    raise FileNotFoundError(f"{data}: expected the file of {task.name} there, got none of {', '.join(wanted)}")
