"""Every form that a task's file may have gives its questions, references and contexts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from retrolit.evaluation.task_files import Example, read_examples
from retrolit.tokens.conversation import Context, Message

SQUAD = {
    "data": [
        {
            "title": "Old_Towns",
            "paragraphs": [
                {
                    "context": "Ulm lies on the Danube.",
                    "qas": [
                        {"id": "q1", "question": "Where is Ulm?", "answers": [{"text": "Danube"}, {"text": "river"}]},
                        {"id": "q2", "question": "How old is it?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}
ULM = Context("Old Towns", "Ulm lies on the Danube.")
TALK = "User: Hi\n\nAssistant: Hello!\n\nUser: Where is Ulm?\n\nAssistant:"


def write(path: Path, content: Any) -> Path:
    """As JSON lines where the name says so, else as JSON."""
    text = "".join(json.dumps(record) + "\n" for record in content) if ".jsonl" in path.name else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "squad.json.gz", SQUAD,
            [Example("q1", "Where is Ulm?", ("Danube", "river"), (ULM,)), Example("q2", "How old is it?", (), (ULM,))],
        ),
        (
            "ropes.json",
            {"data": [{"paragraphs": [{"background": "B", "situation": "S", "qas": [
                {"id": "1", "question": "Q", "answers": [{"text": "A"}]}]}]}]},
            [Example("1", "Q", ("A",), (Context("", "B\nS"),))],
        ),
        (
            "newsqa.json",
            {"data": [
                {"storyId": "s1", "type": "test", "text": "It rained in Ulm.\n", "questions": [
                    {"q": "Where?", "consensus": {"s": 13, "e": 17}}, {"q": "Who?", "consensus": {"noAnswer": True}}]},
                {"storyId": "s2", "type": "train", "text": "T",
                 "questions": [{"q": "Q", "consensus": {"s": 0, "e": 1}}]},
            ]},
            [Example("s1:0", "Where?", ("Ulm.",), (Context("", "It rained in Ulm.\n"),))],
        ),
        (
            "triviaqa.json",
            {"Data": [{"QuestionId": "t1", "Question": "Q?",
                       "Answer": {"Value": "A", "Aliases": ["B", "A"], "HumanAnswers": ["C"]}}]},
            [Example("t1", "Q?", ("A", "B", "C"))],
        ),
        (
            "drop.json",
            {"nfl_1": {"passage": "P", "qa_pairs": [
                {"query_id": "d1", "question": "How many?", "answer": {"number": "3", "spans": [], "date": {}},
                 "validated_answers": [{"number": "", "spans": ["a", "b"], "date": {}}, {"number": "3", "spans": []}]},
                {"question": "When?", "answer": {"number": "", "spans": [], "date": {"day": "", "month": "May",
                                                                                    "year": "1900"}}}]}},
            [Example("d1", "How many?", ("3", "a, b"), (Context("", "P"),)),
             Example("nfl_1:1", "When?", ("May 1900",), (Context("", "P"),))],
        ),
        (
            "mrqa.jsonl", [{"header": {"dataset": "x"}}, {"context": "C", "qas": [
                {"qid": "m1", "question": "Q", "answers": ["A", "B"]}]}],
            [Example("m1", "Q", ("A", "B"), (Context("", "C"),))],
        ),
        (
            "qmsum.jsonl",
            [{"meeting_transcripts": [{"speaker": "Ann", "content": "Yes ."}, {"speaker": "Bo", "content": "No ."}],
              "general_query_list": [{"query": "Sum up.", "answer": "S"}],
              "specific_query_list": [{"query": "What of Bo?", "answer": "He said no."}]}],
            [Example("qmsum.jsonl:1:0", "Sum up.", ("S",), (Context("", "Ann: Yes .\nBo: No ."),)),
             Example("qmsum.jsonl:1:1", "What of Bo?", ("He said no.",), (Context("", "Ann: Yes .\nBo: No ."),))],
        ),
        (
            "summscreen.jsonl", [{"filename": "f1", "Show Title": "Show", "Transcript": ["a", "b"], "Recap": ["r"]}],
            [Example("f1", "", ("r",), (Context("Show", "a\nb"),))],
        ),
        (
            "govreport.json",
            [{"id": "g1", "title": "T",
              "report": [{"section_title": "One", "paragraphs": ["p", "q"], "subsections": []}],
              "highlight": [{"section_title": "Found", "paragraphs": ["h"], "subsections": []}]},
             {"report": "whole", "summary": "short"}],
            [Example("g1", "", ("Found\nh",), (Context("T", "One\np\nq"),)),
             Example("govreport.json: record 2", "", ("short",), (Context("", "whole"),))],
        ),
        (
            "scrolls.jsonl", [{"id": "s1", "input": "Who?\n\nThe text.\n\nMore.", "output": "He."}],
            [Example("s1", "Who?", ("He.",), (Context("", "The text.\n\nMore."),))],
        ),
        (
            "leval.jsonl", [{"instructions": ["a?", "b?"], "outputs": ["A", "B"], "input": "I"}],
            [Example("leval.jsonl:1:0", "a?", ("A",), (Context("", "I"),)),
             Example("leval.jsonl:1:1", "b?", ("B",), (Context("", "I"),))],
        ),
        (
            "webquestions.json", [{"qId": "w1", "qText": "Q", "answers": ["A"]}], [Example("w1", "Q", ("A",))]
        ),
        (
            "kilt.jsonl", [{"id": 7, "input": "Q", "output": [{"answer": "A"}, {"provenance": []}, {"answer": "A"}]}],
            [Example("7", "Q", ("A",))],
        ),
        (
            "nq.jsonl", [{"question": "q", "answer": ["A", "B"]}, {"question": "r", "answer": "C"}],
            [Example("nq.jsonl:1", "q", ("A", "B")), Example("nq.jsonl:2", "r", ("C",))],
        ),
        (
            "unified.json",
            [{"question": TALK, "answers": [{"text": "There."}], "ctxs": [{"title": "T", "text": "X"}, {"text": "Y"}]},
             {"id": "u", "question": "q", "answers": ["A"], "sub-paragraphs": ["T", "X"]},
             {"id": "u", "question": "q", "answer": "A", "sub_paragraph": "X"}],
            [Example("unified.json: record 1", "Where is Ulm?", ("There.",), (Context("T", "X"), Context("", "Y")),
                     (Message("user", "Hi"), Message("assistant", "Hello!"))),
             Example("u", "q", ("A",), (Context("T", "X"),)), Example("u#2", "q", ("A",), (Context("", "X"),))],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_form(name: str, content: Any, expected: list[Example], tmp_path: Path) -> None:
    assert read_examples(write(tmp_path / name, content)) == expected


def test_records_of_input_and_output_may_ask_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "scrolls.jsonl", [{"id": "s1", "input": "The text.\n\nMore.", "output": "Sum."}])
    assert read_examples(path, asks=False) == [Example("s1", "", ("Sum.",), (Context("", "The text.\n\nMore."),))]


def test_narrativeqa_has_two_files(tmp_path: Path) -> None:
    head = "document_id,set,question,answer1,answer2\n"
    (tmp_path / "qaps.csv").write_text(f'{head}d1,train,Q0,a,b\nd1,test,"Who, then?",a,b\n')
    with pytest.raises(ValueError, match=r"expected NarrativeQA's summaries\.csv beside its qaps\.csv, got none"):
        read_examples(tmp_path / "qaps.csv")
    (tmp_path / "summaries.csv").write_text('document_id,set,summary\nd1,test,"Two\nlines"\n')
    assert read_examples(tmp_path / "qaps.csv") == [
        Example("d1:3", "Who, then?", ("a", "b"), (Context("", "Two\nlines"),))
    ]


def test_doc2dial_asks_for_every_turn_of_the_agent(tmp_path: Path) -> None:
    said = [("agent", "Welcome."), ("user", "My card"), ("user", "is lost."), ("agent", "Call us."), ("user", "When?"),
            ("agent", "Now."), ("user", "Thanks.")]  # fmt: skip
    turns = [{"role": role, "utterance": text} for role, text in said]
    path = write(
        tmp_path / "doc2dial_dial_validation.json",
        {"dial_data": {"dmv": {"Cards#1": [{"dial_id": "x", "turns": turns}]}}},
    )
    first = Example("x:0", "My card is lost.", ("Call us.",))
    assert read_examples(path)[0] == first
    document = {"title": "Cards", "doc_text": "Lost cards."}
    write(tmp_path / "doc2dial_doc.json", {"doc_data": {"dmv": {"Cards#1": document}}})
    contexts = (Context("Cards", "Lost cards."),)
    before = (Message("user", "My card is lost."), Message("assistant", "Call us."))
    assert read_examples(path) == [
        Example("x:0", "My card is lost.", ("Call us.",), contexts),
        Example("x:1", "When?", ("Now.",), contexts, before),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"", r"x\.txt: expected a name that ends in \.json, \.jsonl, \.csv, perhaps compressed"),
        ("x.json", b"{", r"x\.json: expected whole json in UTF-8, got something else"),
        ("x.jsonl", b'{"question": "q", "answers": ["\xff"]}\n', r"x\.jsonl: expected whole jsonl in UTF-8"),
        ("x.jsonl.gz", gzip.compress(b'{"question": "q"}\n' * 99, mtime=0)[:-9], r"expected whole jsonl"),
        ("x.json", b"[]", r"x\.json: expected at least one question, got none"),
        ("x.jsonl", b'\n{"text": 1}\n', r"x\.jsonl:2: expected a record of a known form .*, got the fields text"),
        ("x.json", b'["a"]', r"x\.json: record 1: expected a record of a known form .*, got str"),
        ("x.json", b'{"Data": [{"QuestionId": "1"}]}', r"x\.json: expected a triviaqa record, got no 'Answer'"),
        ("x.jsonl", b'{"context": "C", "qas": [3]}', r"x\.jsonl:1: expected a mrqa record, got 'int' object"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "examples", "with_contexts"),
    [
        ("qa/xquad/xquad.en.json.gz", 1190, 1190),
        ("qa/squad2/cs224n-dev-v2.0.json.gz", 6078, 6078),
        ("qa/ropes/dev-v1.0.json.gz", 1688, 1688),
        ("qa/nq-open/NQ-open.dev.jsonl.gz", 3610, 0),
        ("qa/nq-open/nq-open-oracle.jsonl.gz", 2655, 2655),
        ("qa/webquestions/val.json.gz", 755, 0),
        ("summ/qmsum/val.jsonl.gz", 272, 272),
        ("summ/l-eval/gov_report_summ.jsonl.gz", 14, 14),
        ("summ/l-eval/multidoc_qa.jsonl.gz", 158, 158),
    ],
)
def test_real_files(name: str, examples: int, with_contexts: int, shared: Path) -> None:
    read = read_examples(shared / "data" / name)
    assert len(read) == len({example.id for example in read}) == examples
    assert sum(bool(example.contexts) for example in read) == with_contexts
    assert all(example.question for example in read)
