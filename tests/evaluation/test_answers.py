"""Exact match and F1 agree with the official SQuAD evaluations, written down here once more, on real questions."""

from __future__ import annotations

import gzip
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchmetrics.functional.text import squad as torchmetrics_squad

from retrolit.evaluation.answers import (
    answer_scores,
    clean_answer,
    first_f1,
    mean_scores,
    normalize,
    normalize_as_paper,
    refuses,
)


def slow_normalize(text: str) -> list[str]:
    """The published rules, a step at a time: lower case, no punctuation, no article that stands alone, words."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    words, word = [], ""
    for character in kept + " ":
        if character.isalnum() or character == "_":
            word += character
        else:
            words += [" " if word in ("a", "an", "the") else word, character]
            word = ""
    return "".join(words).split()


def slow_f1(said: list[str], wanted: list[str]) -> float:
    left, same = list(wanted), 0
    for word in said:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def official(predictions: list[str], answers: list[list[str]], version: int) -> tuple[float, float]:
    """Exact match and F1 in percent by SQuAD's rules, 1.1 or 2.0."""
    exact = total = 0.0
    for prediction, references in zip(predictions, answers, strict=True):
        said = slow_normalize(prediction)
        wanted = [slow_normalize(reference) for reference in references]
        if version == 2:
            wanted = [words for words in wanted if words] or [[]]
        exact += max(said == words for words in wanted)
        if version == 2:
            total += max(slow_f1(said, words) if said and words else float(said == words) for words in wanted)
        else:
            total += max(slow_f1(said, words) for words in wanted)
    return 100.0 * exact / len(predictions), 100.0 * total / len(predictions)


def questions(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Context and references of every question of a SQuAD file."""
    with gzip.open(path) as file:
        for article in json.load(file)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield paragraph["context"], [answer["text"] for answer in question["answers"]]


def perturbed(context: str, answers: list[str], draw: random.Random) -> str:
    """An answer as models give them: right, nearly right, from elsewhere in the text, or none."""
    words = context.split()
    start = draw.randrange(len(words))
    span = words[start : start + draw.randint(1, 12)]
    answer = draw.choice(answers) if answers else ""
    return draw.choice(
        [
            answer, f"The {answer.upper()}.", f"“{answer}”, an answer", answer[: len(answer) // 2],
            answer.replace(" ", "-"), " ".join(span), f"{answer} {span[0]}", f"{span[-1]} {answer} {answer}", "", "the",
            "a an—the !",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(("name", "version"), [("xquad/xquad.en.json.gz", 1), ("squad2/cs224n-dev-v2.0.json.gz", 2)])
def test_agrees_with_the_official_rules_to_the_last_digit(name: str, version: int, shared: Path) -> None:
    draw = random.Random(5)
    contexts, answers = zip(*questions(shared / "data" / "qa" / name), strict=True)
    predictions = [perturbed(context, own, draw) for context, own in zip(contexts, answers, strict=True)]
    scores = [
        answer_scores(said, own, unanswerable=version == 2) for said, own in zip(predictions, answers, strict=True)
    ]
    means = mean_scores(scores, answers, unanswerable=version == 2)
    assert (means["exact_match"], means["f1"]) == official(predictions, list(answers), version)
    assert 10 < means["exact_match"] < means["f1"] < 90, "the perturbed answers are neither all right nor all wrong"
    for prefix, kept in (("answerable_", True), ("unanswerable_", False)) if version == 2 else ():
        some = [i for i, own in enumerate(answers) if bool(own) is kept]
        part = official([predictions[i] for i in some], [answers[i] for i in some], version)
        assert (means[f"{prefix}exact_match"], means[f"{prefix}f1"]) == part
    if version == 1:
        given = [{"prediction_text": said, "id": str(i)} for i, said in enumerate(predictions)]
        wanted = [
            {"answers": {"text": own, "answer_start": [0] * len(own)}, "id": str(i)} for i, own in enumerate(answers)
        ]
        theirs = torchmetrics_squad(given, wanted)  # single precision
        assert means["exact_match"] == pytest.approx(theirs["exact_match"].item(), rel=1e-6)
        assert means["f1"] == pytest.approx(theirs["f1"].item(), rel=1e-6)


def test_words_that_are_compared() -> None:
    text = "The Rock-n-Roll  of a\tman, an Étude_in A."
    assert normalize(text) == "rocknroll of man étudein"
    assert normalize_as_paper(text) == "rock n roll of man étude in"
    assert normalize("“a b”") == "“ b”", "quotation marks that are no ASCII stay, and an article beside one goes"


def test_first_f1_knows_one_reference_and_skips_an_empty_one() -> None:
    assert first_f1("the large cat", "large dog") == pytest.approx(0.5)
    assert first_f1("well-known", "well known") == 1.0
    assert first_f1("", "dog") == 0.0
    assert first_f1("dog", "") is None
    scores = [answer_scores("dog", ["cat", "dog"]), answer_scores("dog", ["", "dog"])]
    assert [own["first_f1"] for own in scores] == [0.0, None]
    assert mean_scores(scores, [["cat", "dog"], ["", "dog"]]) == {"exact_match": 100.0, "f1": 100.0, "first_f1": 0.0}


def test_a_question_without_answer_is_answered_by_nothing_alone() -> None:
    assert answer_scores("", [], unanswerable=True) == {"exact_match": 1.0, "f1": 1.0, "first_f1": None}
    assert answer_scores("Normandy", [], unanswerable=True)["f1"] == 0.0
    assert answer_scores("", ["Normandy"], unanswerable=True)["f1"] == 0.0
    only = mean_scores([answer_scores("", [], unanswerable=True)], [[]], unanswerable=True)
    assert only == {
        "exact_match": 100.0, "f1": 100.0, "unanswerable_exact_match": 100.0, "unanswerable_f1": 100.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cleaned", "cut"),
    [
        (" 1972.\n", "1972.", "1972"),
        ("Answer: Paris<|endoftext|>", "Paris", "Paris"),
        ("A: in the U.S. Senate", "in the U.S. Senate", "in the U"),
        ("AB: x", "AB: x", "AB: x"),
        ("", "", ""),
    ],
)
def test_what_a_model_wrote_is_cleaned(text: str, cleaned: str, cut: str) -> None:
    assert clean_answer(text) == cleaned
    assert clean_answer(text, first_sentence=True) == cut


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("", True),
        ("Sorry, I cannot find the answer in the context.", True),
        ("not mentioned in the text", True),
        ("The name is not mentioned in the text.", True),
        ("The article doesn\u2019t say who it was", True),
        ("I do not know", True),
        ("Unanswerable.", True),
        ("the Tomb of the Unknown Soldier", False),
        ("a tomb unknown to the Greeks", False),
        ("In 1066, by the Normans", False),
    ],
)
def test_refusals(text: str, refused: bool) -> None:
    assert refuses(text) is refused
