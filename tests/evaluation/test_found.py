"""Whether answers stand in what was retrieved: by hand, and against chance."""

from __future__ import annotations

import pytest

from retrolit.evaluation.found import found_scores, holds, texts_read
from retrolit.generation import Generation
from retrolit.generation.retrieval import ChunkNeighbors, Retrieved


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["Join two"], True), (["no", "PATHNAME   parts"], True), (["join three"], False), ([" "], False), ([], False)],
)
def test_an_answer_is_found_word_for_word(answers: list[str], expected: bool) -> None:
    assert holds("os.path.join(a, *p)\n\nJoin two\n  or more pathname parts", answers) is expected


def test_each_questions_own_texts_count_and_anothers_are_chance() -> None:
    texts = [{"contexts": "", "neighbors": text} for text in ("red and blue", "blue", "green", "black")]
    answers = [["red"], ["blue"], ["yellow"], ["black", "grey"]]
    assert found_scores(texts, answers) == {"in_neighbors": 75.0, "in_others_neighbors": 25.0}
    assert found_scores([{"contexts": "", "neighbors": ""}], [["red"]]) == {}


def test_the_neighbors_are_those_that_the_answer_begins_with() -> None:
    def chunk(start: int, end: int, text: str) -> ChunkNeighbors:
        return ChunkNeighbors(start, end, [Retrieved(0, 0.1, "here", text)])

    made = Generation("text", [1], "end", [chunk(0, 4, "early"), chunk(4, 8, "asked"), chunk(8, 12, "later")])
    assert texts_read("passage", made, prompt_length=8) == {"contexts": "passage", "neighbors": "asked"}
    assert texts_read("", Generation("text", [1], "end"), prompt_length=8) == {"contexts": "", "neighbors": ""}
