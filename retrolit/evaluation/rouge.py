"""ROUGE-1, ROUGE-2 and ROUGE-L of a summary (Lin, 2004): words, word pairs and word order it shares with a reference.

Words are runs of letters a-z and digits in lower case, not stemmed; each score is F1; the best of all references
counts. These are the definitions of the package rouge-score and of SCROLLS, whose data sets the paper uses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from retrolit.evaluation.answers import Scores

_WORDS = re.compile(r"[a-z0-9]+")


def rouge_scores(prediction: str, references: Sequence[str]) -> Scores:
    """`rouge1`, `rouge2` and `rougeL` of one summary, each its best reference's."""
    said = words_of(prediction)
    scores: Scores = {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    for reference in references:
        wanted = words_of(reference)
        for name, shared, longest in (
            ("rouge1", common_ngrams(said, wanted, 1), (len(said), len(wanted))),
            ("rouge2", common_ngrams(said, wanted, 2), (len(said) - 1, len(wanted) - 1)),
            ("rougeL", longest_common_subsequence(said, wanted), (len(said), len(wanted))),
        ):
            scores[name] = max(scores[name] or 0.0, 2 * shared / sum(longest) if shared else 0.0)
    return scores


def mean_rouge(scores: Sequence[Scores]) -> dict[str, float]:
    """The means of all summaries' scores in percent, and `rouge`, the geometric mean of the three."""
    means = {name: 100 * sum(own[name] or 0.0 for own in scores) / len(scores) for name in scores[0]}
    return means | {"rouge": (means["rouge1"] * means["rouge2"] * means["rougeL"]) ** (1 / 3)}


def words_of(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def common_ngrams(said: Sequence[str], wanted: Sequence[str], n: int) -> int:
    """How many runs of n words the two share, each as often as it stands in both."""
    ours, theirs = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (said, wanted))
    return sum((ours & theirs).values())


def longest_common_subsequence(said: Sequence[str], wanted: Sequence[str]) -> int:
    """The length of the longest sequence of words that stands in both in this order, perhaps with others between.

    A row of the usual table is one number of len(said) bits, a bit 0 where the row grows by one (Hyyrö, 2004): a
    summary of 500 words takes 500 additions instead of 250,000 steps.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(said):
        places[word] = places.get(word, 0) | 1 << place
    all_ones = (1 << len(said)) - 1
    row = all_ones
    for word in wanted:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & all_ones
    return len(said) - row.bit_count()
