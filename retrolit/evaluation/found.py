"""Whether an answer stands in what was retrieved for its question: no model can read there what is not.

As a score this is the recall of the retriever (DPR, section 4). Chance is told beside it: how often the answer stands
in what was retrieved for another question, the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrolit.generation import Generation

NAMES = {"contexts": ("in_contexts", "in_others_contexts"), "neighbors": ("in_neighbors", "in_others_neighbors")}
"""Where answers are looked for -> the scores for its own question's and for another's."""


def texts_read(contexts: str, made: Generation, prompt_length: int) -> dict[str, str]:
    """Where an answer may stand: its contexts, and the neighbors that its first words were written with."""
    read = [chunk for chunk in made.neighbors if chunk.end <= prompt_length][-1:]
    return {"contexts": contexts, "neighbors": " ".join(one.text for chunk in read for one in chunk.neighbors)}


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the text, word for word; case and white space make no difference."""
    text = _plain(text)
    return any(_plain(answer) in text for answer in answers if answer and not answer.isspace())


def found_scores(texts: Sequence[dict[str, str]], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """The share of all questions in percent, by the name of the score; none for what was never retrieved.

    Args:
        texts: Of each question, what `texts_read` gives.
        answers: Of each question, all references.
    """
    scores = {}
    for where, (own, others) in NAMES.items():
        if any(text[where] for text in texts):
            each = [text[where] for text in texts]
            for name, read in ((own, each), (others, [each[-1], *each[:-1]])):
                found = sum(holds(text, wanted) for text, wanted in zip(read, answers, strict=True))
                scores[name] = 100 * found / len(texts)
    return scores


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
