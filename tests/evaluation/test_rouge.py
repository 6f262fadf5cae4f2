"""ROUGE agrees with the package rouge-score on real summaries."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from retrolit.evaluation.rouge import longest_common_subsequence, mean_rouge, rouge_scores


def slow_subsequence(said: str, wanted: str) -> int:
    table = [[0] * (len(wanted) + 1) for _ in range(len(said) + 1)]
    for i, ours in enumerate(said):
        for j, theirs in enumerate(wanted):
            table[i + 1][j + 1] = table[i][j] + 1 if ours == theirs else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_longest_common_subsequence() -> None:
    draw = random.Random(2)
    for _ in range(200):
        said, wanted = ("".join(draw.choices("abcd", k=draw.randrange(90))) for _ in range(2))
        assert longest_common_subsequence(said, wanted) == slow_subsequence(said, wanted)


def test_by_hand() -> None:
    scores = rouge_scores("The cat sat.", ["a dog", "the cat, it SAT"])
    assert scores == {"rouge1": pytest.approx(6 / 7), "rouge2": pytest.approx(2 / 5), "rougeL": pytest.approx(6 / 7)}
    assert rouge_scores("", ["a dog"]) == rouge_scores("cat", [""]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    means = mean_rouge([{"rouge1": 0.5, "rouge2": 0.2, "rougeL": 0.4}, {"rouge1": 0.3, "rouge2": 0.0, "rougeL": 0.1}])
    assert means == pytest.approx({"rouge1": 40, "rouge2": 10, "rougeL": 25, "rouge": 10000 ** (1 / 3)})


def test_agrees_with_rouge_score(shared: Path) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="needs rouge-score")
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    with gzip.open(shared / "data" / "summ" / "qmsum" / "val.jsonl.gz", "rt", encoding="utf-8") as file:
        meetings = [json.loads(line) for line in file]
    answers = [query["answer"] for meeting in meetings for query in meeting["specific_query_list"]]
    draw = random.Random(4)
    ours, theirs = [], []
    for answer in answers[:150]:
        words = answer.split()
        draw.shuffle(words)
        prediction = " ".join(words[: draw.randrange(len(words) + 1)] + draw.choice(answers).split())
        references = [answer, draw.choice(answers)]
        ours.append(rouge_scores(prediction, references))
        scored = scorer.score_multi(references, prediction)
        best = {name: max(scorer.score(own, prediction)[name].fmeasure for own in references) for name in scored}
        theirs.append(best)
        assert ours[-1] == pytest.approx(best, abs=1e-9)
    assert 10 < mean_rouge(ours)["rouge"] == pytest.approx(mean_rouge(theirs)["rouge"], abs=1e-6)
