"""Questions that documents answer themselves: what a document is about, and how it begins.

A document that opens with a title, a line of its own above a blank one, underlined or not, is asked for by that title;
one that opens with a function's signature by the function's name; any other by its first words. The answer is the
opening itself, word for word, so that it can be told whether a model took its answer from there:

    posixpath.join(a, *p)                            What does posixpath.join do?
                                               ->
    Join two or more pathname components, ...        posixpath.join(a, *p)\\n\\nJoin two or more pathname ...
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

LONGEST_TITLE = 80
"""Characters of a line that may be a title; the signature of a function is one at any length."""

LONGEST_ANSWER = 240
"""Characters of an answer; a longer opening ends with the last line, sentence or word before that."""

SHORTEST_ANSWER = 40
"""Characters; about documents with a shorter opening nothing is asked."""

FIRST_WORDS = 8
"""By which a document without a title is asked for."""

CALLABLE = re.compile(r"[\w.]+(?=\()")
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
UNDERLINE = re.compile(r"\s*\n([^\w\s])\1{2,}\s*$")
SIGNATURE = re.compile(r"[\w.]+\(.*\)")
CLASS = re.compile(r"class ([\w.]+)")
ABOUT = ("What is {}?", "What is {} for?", "Tell me about {}.")
ABOUT_CALLABLE = ("What does {} do?", "What is {} for?", "How is {} used?")
GOING_ON = "Which text begins with: {}"


@dataclass(frozen=True)
class Question:
    """One question and its answer."""

    question: str
    answer: str


def question_of(text: str) -> Question | None:
    """What can be asked about a document; None where its opening is too short to ask for."""
    text = text.strip()
    border = BLANK_LINE.search(text)
    head, start = (text, 0) if border is None else (text[: border.start()], border.end())
    title = UNDERLINE.sub("", head).rstrip()
    fits = len(title) <= LONGEST_TITLE or SIGNATURE.fullmatch(title) is not None
    has_title = border is not None and "\n" not in title and fits
    answer = _opening(text, start if has_title else 0)
    if len(answer) < SHORTEST_ANSWER:
        return None
    if not has_title:
        return Question(GOING_ON.format(" ".join(text.split()[:FIRST_WORDS])), answer)
    if match := CLASS.match(title):
        name, forms = match[1], ABOUT
    elif match := CALLABLE.match(title):
        name, forms = match[0], ABOUT_CALLABLE
    else:
        name, forms = title.strip(" =#*"), ABOUT
    # The same document is asked about in the same way in every run.
    chosen = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") % len(forms)
    return Question(forms[chosen].format(name), answer)


def _opening(text: str, start: int) -> str:
    """From the beginning to the end of the paragraph at `start`, and at most LONGEST_ANSWER characters."""
    end = BLANK_LINE.search(text, start)
    opening = text if end is None else text[: end.start()]
    if len(opening) <= LONGEST_ANSWER:
        return opening.rstrip()
    opening = opening[:LONGEST_ANSWER]
    for border in ("\n", ". ", " "):
        if (cut := opening.rfind(border)) > max(start, LONGEST_ANSWER // 2):
            return opening[: cut + 1].rstrip()
    return opening
