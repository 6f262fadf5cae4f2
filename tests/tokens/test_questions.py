"""Questions about documents: what is asked, and that the answer is how the document begins."""

from __future__ import annotations

import pytest

from retrolit.tokens.python_docs import PythonDocs
from retrolit.tokens.questions import LONGEST_ANSWER, question_of

PARAGRAPH = "The first paragraph says what the whole is about, in a sentence or two."


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("os.path.join(a, *p)", "os.path.join"),
        ("class json.JSONEncoder(object)", "json.JSONEncoder"),
        ("class abc.ABC", "abc.ABC"),
        (f"json.dumps(obj, *, {', '.join(f'option{i}=None' for i in range(10))})", "json.dumps"),
        ("statistics", "statistics"),
        ("= Valkyria Chronicles =", "Valkyria Chronicles"),
        ("Emulating numeric types\n***********************", "Emulating numeric types"),
    ],
)
def test_a_document_with_a_title_is_asked_for_by_its_name(title: str, name: str) -> None:
    asked = question_of(f"{title}\n\n{PARAGRAPH}\n\nAnd more.")
    assert asked is not None
    assert name in asked.question
    assert title not in asked.question or title == name
    assert asked.answer == f"{title}\n\n{PARAGRAPH}"


def test_a_line_of_spaces_is_blank() -> None:
    asked = question_of(f" = Homarus gammarus = \n \n {PARAGRAPH}\r\n\r\nAnd more.")
    assert asked is not None
    assert "Homarus gammarus" in asked.question
    assert asked.answer == f"= Homarus gammarus = \n \n {PARAGRAPH}"


def test_another_is_asked_for_by_its_first_words() -> None:
    asked = question_of(f"{PARAGRAPH}\nThe second line.\n\nThe second paragraph.")
    assert asked is not None
    assert asked.question == "Which text begins with: The first paragraph says what the whole is"
    assert asked.answer == f"{PARAGRAPH}\nThe second line."


@pytest.mark.parametrize("text", ["", "   \n\n ", "short", "a title\n\nand less"])
def test_nothing_is_asked_about_a_document_that_says_too_little(text: str) -> None:
    assert question_of(text) is None


@pytest.mark.parametrize("paragraph", ["One line.\n" * 60, "One sentence. " * 60, "word " * 150, "x" * 700])
def test_a_long_opening_ends_at_the_last_border_that_fits(paragraph: str) -> None:
    text = f"title\n\n{paragraph}"
    asked = question_of(text)
    assert asked is not None
    assert LONGEST_ANSWER // 2 < len(asked.answer) <= LONGEST_ANSWER
    assert text.startswith(asked.answer)
    if " " in paragraph:
        assert not text[len(asked.answer)].isalpha()


def test_answers_are_openings_of_the_documentation() -> None:
    documents = PythonDocs("python-docs:json,textwrap,pathlib")._documents()
    asked = [(question_of(document.text), document) for document in documents]
    found = [(question, document) for question, document in asked if question is not None]
    assert len(found) > len(documents) / 2
    for question, document in found:
        assert document.text.strip().startswith(question.answer)
        assert question_of(document.text) == question
