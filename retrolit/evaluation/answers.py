"""Scores of an answer against its references: exact match and F1, as the official SQuAD scripts have them and as the
paper has them.

    SQuAD      lower case, punctuation gone, "a", "an" and "the" gone; the best of all references counts
    the paper  lower case, punctuation to spaces, articles gone; the first reference alone counts

SQuAD 2.0 asks questions that its text does not answer: there "" is the right answer, and the only one.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

# Scores of one answer, by name, each from 0 to 1; None where a score does not apply and the mean leaves it out.
Scores = dict[str, float | None]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PUNCTUATION_TO_SPACES = str.maketrans(dict.fromkeys(string.punctuation, " "))

_REFUSALS = re.compile(
    r"^\W*(unanswerable|unknown|unclear|none|no answer|not (provided|mentioned|stated|specified|given|found))\b"
    r"|\b(no|not enough|insufficient) information\b"
    r"|\b(can ?not|can't|could not|couldn't|unable to) (be )?(find|found|answer|answered|determine|determined|tell)\b"
    r"|\b((is|are|was|were|does|do|did)(n't| not)) "
    r"(provide|provided|mention|mentioned|state|stated|say|said|specify|specified|give|given|contain|answered|found)\b"
    r"|\b(don't|do not) know\b"
)


def normalize(text: str) -> str:
    """The words that SQuAD compares: lower case, without punctuation and articles, one space between."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def normalize_as_paper(text: str) -> str:
    """The words that the paper's F1 compares: as `normalize`, but punctuation parts words instead of joining them."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION_TO_SPACES)).split())


def answer_scores(prediction: str, answers: Sequence[str], unanswerable: bool = False) -> Scores:
    """`exact_match`, `f1` (best reference) and `first_f1` (the paper's) of one answer.

    With `unanswerable` the rules are those of SQuAD 2.0: a question without references is answered by "" alone.
    """
    if unanswerable:
        answers = [answer for answer in answers if normalize(answer)] or [""]
    said = normalize(prediction)
    references = [normalize(answer) for answer in answers]
    compare = _overlap_or_both_empty if unanswerable else word_f1
    return {
        "exact_match": max(float(said == reference) for reference in references),
        "f1": max(compare(said, reference) for reference in references),
        "first_f1": first_f1(prediction, answers[0]),
    }


def first_f1(prediction: str, answer: str) -> float | None:
    """The paper's F1 of a prediction and one reference; None where the reference is empty, and not counted."""
    return word_f1(normalize_as_paper(prediction), normalize_as_paper(answer)) if answer else None


def word_f1(said: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the words, each counted as often as it stands in both."""
    words, wanted = said.split(), reference.split()
    same = sum((Counter(words) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(words), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def mean_scores(
    scores: Sequence[Scores], answers: Sequence[Sequence[str]], unanswerable: bool = False
) -> dict[str, float]:
    """The means of all answers' scores, in percent; with `unanswerable` also those of questions with and without one.

    A score that applies to none of them is left out.
    """
    means = _percentages(scores)
    if unanswerable:
        answered = [any(own) for own in answers]
        for prefix, wanted in (("answerable_", True), ("unanswerable_", False)):
            some = [own for own, has in zip(scores, answered, strict=True) if has is wanted]
            means |= {f"{prefix}{name}": value for name, value in _percentages(some).items() if name != "first_f1"}
    return means


def clean_answer(text: str, *, first_sentence: bool = False) -> str:
    """What a model wrote, as it is scored: without "Answer:", "A:" and an end-of-text marker around it.

    `first_sentence` cuts it at the first period, as the paper does with models that were not tuned to answer and go on.
    """
    text = text.replace("<|endoftext|>", "")
    text = re.sub(r"^\s*(Answer|A):", "", text).strip()
    return text.split(".", 1)[0].strip() if first_sentence else text


def refuses(text: str) -> bool:
    """Whether a model says that there is no answer in what it was given, in one of the usual ways, or says nothing."""
    return not text.strip() or _REFUSALS.search(text.lower().replace("\u2019", "'")) is not None


def _overlap_or_both_empty(said: str, reference: str) -> float:
    """SQuAD 2.0's F1: with no words on one side, right only where there are none on the other."""
    return word_f1(said, reference) if said and reference else float(said == reference)


def _percentages(scores: Sequence[Scores]) -> dict[str, float]:
    names = dict.fromkeys(name for own in scores for name in own)
    means = {}
    for name in names:
        counted = [value for own in scores if (value := own[name]) is not None]
        if counted:
            means[name] = 100 * sum(counted) / len(counted)
    return means
