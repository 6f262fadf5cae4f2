"""Questions, references and contexts out of the files that data sets come in, whatever their form.

    SQuAD's JSON        SQuAD 1.1 and 2.0, Quoref, ROPES
    its own JSON        NewsQA, TriviaQA, DROP, doc2dial; NarrativeQA's qaps.csv beside its summaries.csv
    JSON lines          NQ-open, KILT, MRQA, QMSum, SummScreen, GovReport, SCROLLS, L-Eval, WebQuestions
    records of          {"question", "answers" or "answer", "ctxs": [{"title", "text"}]}, as a JSON list or JSON lines:
                        NVIDIA's unified form, DPR's and FiD's

Which one a file is follows from the fields of its records, not from its name.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from retrolit.tokens.compression import DamagedFileError, decompressed, strip_compression
from retrolit.tokens.conversation import Context, Message

ENDINGS = (".json", ".jsonl", ".csv")
TURN = re.compile(r"(?:^|\n+)(User|Assistant): ?")


@dataclass(frozen=True)
class Example:
    """One question and its references."""

    id: str
    """Unlike every other in its file."""

    question: str
    """The user's last turn; empty where the task itself says what to do."""

    answers: tuple[str, ...]
    """References, the first of which is the paper's; none where the contexts do not answer."""

    contexts: tuple[Context, ...] = ()
    """Passages that came with it, the best first."""

    turns: tuple[Message, ...] = ()
    """What was said before, in a dialogue."""


def read_examples(path: str | Path, asks: bool = True) -> list[Example]:
    """All examples of a file, perhaps compressed; `asks`: its records of {"input", "output"} begin with a question.

    Raises ValueError that names file and record where it is in none of the forms, or lacks a field.
    """
    path = Path(path)
    examples: list[Example] = []
    copies: Counter[str] = Counter()
    for source, record in _records(path):
        reader = _reader(record, source)
        try:
            for example in reader(record, _Place(path, source, asks)):
                copies[example.id] += 1
                again = copies[example.id]
                examples.append(example if again == 1 else replace(example, id=f"{example.id}#{again}"))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{source}: expected a {reader.__name__.strip('_')} record, got {said} in it") from error
    if not examples:
        raise ValueError(f"{path}: expected at least one question, got none")
    return examples


@dataclass(frozen=True)
class _Place:
    """What a reader knows besides the record."""

    path: Path
    source: str
    asks: bool


Reader = Callable[[Any, _Place], Iterator[Example]]


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every record, and where it is."""
    name, compression = strip_compression(path.name)
    ending = PurePath(name).suffix
    if ending not in ENDINGS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}, perhaps compressed (.gz, .xz)")
    try:
        with open(path, "rb") as raw, decompressed(raw, compression) as file:
            if ending == ".json":
                content = json.loads(file.read())
                if isinstance(content, list):
                    yield from ((f"{path}: record {number}", record) for number, record in enumerate(content, 1))
                else:
                    yield str(path), content
            elif ending == ".jsonl":
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield f"{path}:{number}", json.loads(line)
            else:
                text = io.TextIOWrapper(file, encoding="utf-8", newline="")
                yield from ((f"{path}:{number}", record) for number, record in enumerate(csv.DictReader(text), 2))
    except (json.JSONDecodeError, UnicodeDecodeError, DamagedFileError) as error:
        raise ValueError(f"{path}: expected whole {ending[1:]} in UTF-8, got something else: {error}") from error


def _reader(record: Any, source: str) -> Reader:
    """Who reads this record, by its fields."""
    fields = set(record) if isinstance(record, dict) else set()
    first = record["data"][0] if "data" in fields and record["data"] else {}
    if "paragraphs" in first:
        return _squad
    if "storyId" in first:
        return _newsqa
    if "Data" in fields:
        return _triviaqa
    if "dial_data" in fields:
        return _doc2dial
    if "header" in fields:
        return _header
    for needed, reader in (
        ({"context", "qas"}, _mrqa),
        ({"meeting_transcripts"}, _qmsum),
        ({"Transcript", "Recap"}, _summscreen),
        ({"report"}, _govreport),
        ({"instructions", "outputs", "input"}, _leval),
        ({"document_id", "question", "answer1"}, _narrativeqa),
        ({"qText", "answers"}, _webquestions),
        ({"question"}, _unified),
    ):
        if needed <= fields:
            return reader
    if {"input", "output"} <= fields:
        return _scrolls if isinstance(record["output"], str) else _kilt
    if fields and all(isinstance(value, dict) and "qa_pairs" in value for value in record.values()):
        return _drop
    got = f"the fields {', '.join(sorted(map(str, fields))[:8])}" if fields else type(record).__name__
    raise ValueError(
        f'{source}: expected a record of a known form (docs: "Tasks"), for example {{"question", "answers", "ctxs"}}, '
        f"got {got}"
    )


def _squad(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    for article in record["data"]:
        for paragraph in article["paragraphs"]:
            # ROPES has two texts instead of one.
            texts = [paragraph[name] for name in ("background", "situation", "context") if name in paragraph]
            context = Context(article.get("title", "").replace("_", " "), "\n".join(texts))
            for question in paragraph["qas"]:
                answers = tuple(answer["text"] for answer in question["answers"])
                yield Example(question["id"], question["question"], answers, (context,))


def _newsqa(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    """The questions that validators agreed on, of the part of the data that is for testing."""
    for story in record["data"]:
        if story.get("type", "test") != "test":
            continue
        for number, question in enumerate(story["questions"]):
            span = question["consensus"]
            if "s" in span:
                answer = story["text"][span["s"] : span["e"]].strip()
                yield Example(f"{story['storyId']}:{number}", question["q"], (answer,), (Context("", story["text"]),))


def _triviaqa(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    for entry in record["Data"]:
        answer = entry["Answer"]
        answers = dict.fromkeys([answer["Value"], *answer.get("Aliases", []), *answer.get("HumanAnswers", [])])
        yield Example(entry["QuestionId"], entry["Question"], tuple(answers))


def _drop(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    for passage_id, passage in record.items():
        for number, pair in enumerate(passage["qa_pairs"]):
            answers = [pair["answer"], *pair.get("validated_answers", [])]
            texts = tuple(dict.fromkeys(filter(None, map(_drop_answer, answers))))
            id = pair.get("query_id", f"{passage_id}:{number}")
            yield Example(id, pair["question"], texts, (Context("", passage["passage"]),))


def _drop_answer(answer: dict[str, Any]) -> str:
    """A number, the spans, or a date, as text."""
    date = answer.get("date") or {}
    written = " ".join(date[part] for part in ("day", "month", "year") if date.get(part))
    return str(answer.get("number") or "") or ", ".join(answer.get("spans", [])) or written


def _doc2dial(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    """Every reply of an agent to a user; documents come from doc2dial_doc.json where it lies beside."""
    documents: dict[str, Context] = {}
    beside = sorted(place.path.parent.glob("*doc2dial_doc.json*"))
    for _, content in _records(beside[0]) if beside else ():
        for domain in content["doc_data"].values():
            documents |= {id: Context(entry["title"], entry["doc_text"]) for id, entry in domain.items()}
    for domain in record["dial_data"].values():
        for id, dialogues in domain.items():
            contexts = (documents[id],) if id in documents else ()
            for dialogue in dialogues:
                turns = _joined([("user" if t["role"] == "user" else "assistant", t["utterance"])
                                 for t in dialogue["turns"]])  # fmt: skip
                for last in range(0, len(turns) - 1, 2):
                    question, reply, before = turns[last].content, turns[last + 1].content, tuple(turns[:last])
                    yield Example(f"{dialogue['dial_id']}:{last // 2}", question, (reply,), contexts, before)


def _joined(said: list[tuple[Any, str]]) -> list[Message]:
    """Turns from the user's first one on that alternate: several of one speaker in a row become one."""
    turns: list[Message] = []
    for role, text in said:
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content} {text}")
        elif turns or role == "user":
            turns.append(Message(role, text))
    return turns


def _header(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    """MRQA's first line, which says what the file is."""
    yield from ()


def _mrqa(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    for question in record["qas"]:
        id = question.get("qid") or question["id"]
        yield Example(id, question["question"], tuple(question["answers"]), (Context("", record["context"]),))


def _qmsum(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    meeting = "\n".join(f"{turn['speaker']}: {turn['content']}" for turn in record["meeting_transcripts"])
    for number, query in enumerate([*record["general_query_list"], *record["specific_query_list"]]):
        yield Example(f"{_short(place)}:{number}", query["query"], (query["answer"],), (Context("", meeting),))


def _summscreen(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    context = Context(record.get("Show Title", ""), _text(record["Transcript"]))
    yield Example(record.get("filename") or _short(place), "", (_text(record["Recap"]),), (context,))


def _govreport(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    summary = record["highlight"] if "highlight" in record else record["summary"]
    context = Context(record.get("title", ""), _text(record["report"]))
    yield Example(str(record.get("id") or _short(place)), "", (_text(summary),), (context,))


def _text(nested: Any) -> str:
    """Paragraphs that may lie in lists and sections, as one text."""
    if isinstance(nested, str):
        return nested
    parts = nested.values() if isinstance(nested, dict) else nested
    return "\n".join(filter(None, map(_text, parts)))


def _leval(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    for number, (asked, answer) in enumerate(zip(record["instructions"], record["outputs"], strict=True)):
        yield Example(f"{_short(place)}:{number}", asked, (answer,), (Context("", record["input"]),))


def _narrativeqa(record: dict[str, str], place: _Place) -> Iterator[Example]:
    """A question of the test set, with the summary of its book or film."""
    if record.get("set", "test") != "test":
        return
    summaries = _narrativeqa_summaries(place.path.parent)
    answers = tuple(record[name] for name in ("answer1", "answer2") if record.get(name))
    context = Context("", summaries[record["document_id"]])
    yield Example(f"{record['document_id']}:{place.source.rpartition(':')[2]}", record["question"], answers, (context,))


@lru_cache(maxsize=1)
def _narrativeqa_summaries(folder: Path) -> dict[str, str]:
    found = sorted([*folder.glob("summaries.csv*"), *folder.glob("third_party/wikipedia/summaries.csv*")])
    if not found:
        raise ValueError(f"{folder}: expected NarrativeQA's summaries.csv beside its qaps.csv, got none")
    return {record["document_id"]: record["summary"] for _, record in _records(found[0])}


def _webquestions(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    yield Example(record.get("qId") or _short(place), record["qText"], tuple(record["answers"]))


def _kilt(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    answers = tuple(dict.fromkeys(output["answer"] for output in record["output"] if output.get("answer")))
    yield Example(str(record.get("id") or _short(place)), record["input"], answers)


def _scrolls(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    question, _, document = record["input"].partition("\n\n") if place.asks else ("", "", record["input"])
    yield Example(str(record.get("id") or _short(place)), question, (record["output"],), (Context("", document),))


def _unified(record: dict[str, Any], place: _Place) -> Iterator[Example]:
    given = record["answers"] if record.get("answers") is not None else record.get("answer", [])
    listed = given if isinstance(given, list) else [given]
    answers = tuple(str(answer["text"] if isinstance(answer, dict) else answer) for answer in listed)
    contexts = [Context(context.get("title", ""), context["text"]) for context in record.get("ctxs") or []]
    passage = record.get("sub-paragraphs") or record.get("sub_paragraph")
    if passage and not contexts:
        title, text = passage if isinstance(passage, list) else ("", passage)
        contexts = [Context(title, text)]
    *before, question = _dialogue(record["question"])
    id = str(record.get("id") or record.get("_id") or _short(place))
    yield Example(id, question.content, answers, tuple(contexts), tuple(before))


def _dialogue(text: str) -> list[Message]:
    """The turns of "User: ... Assistant: ... User: ... Assistant:", or one user's turn."""
    if not text.lstrip().startswith("User:"):
        return [Message("user", text.strip())]
    parts = TURN.split(text.strip())[1:]
    turns = _joined([(role.lower(), said.strip()) for role, said in zip(parts[::2], parts[1::2], strict=True)])
    return turns if turns[-1].role == "user" else turns[:-1]


def _short(place: _Place) -> str:
    """A record's place as an id, without the folder, so that a file may move."""
    return place.source.removeprefix(f"{place.path.parent}/")
