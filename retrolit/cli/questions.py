"""Questions about the documents of a data.yaml, for instruction tuning and for `retrolit evaluate`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from retrolit.retrieval.prepare import RetrievalConfig
from retrolit.storage import atomic_write
from retrolit.tokens.config import SPLITS, TokensConfig, check_splits
from retrolit.tokens.corpus import documents, open_corpus
from retrolit.tokens.questions import question_of
from retrolit.tokens.splits import split_name, text_hash


def questions(
    folder: str,
    tokens: TokensConfig,
    retrieval: RetrievalConfig | None = None,
    *,
    output: str,
    validation: float = 0.02,
    test: float = 0.06,
) -> None:
    """Ask about the documents that a data.yaml trains on: what is it? The answer is how the document begins.

    Writes train.jsonl, validation.jsonl and test.jsonl of {"question": ..., "answers": [...]}, a form that both
    `retrolit prepare` (conversations) and `retrolit evaluate` read. Documents of the data's own validation and test
    splits are not asked about: they are not in the database.
    Usually: retrolit questions -c data.yaml --output questions

    Args:
        folder: the data.yaml's; nothing is read or written there.
        tokens: corpora and splits.
        retrieval: the data.yaml's; not needed here.
        output: the folder for the three files.
        validation: share of the questions that are not trained, but looked at while training.
        test: share of the questions for the test.
    """
    del folder, retrieval
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    check_splits("questions", shares)
    found: dict[str, str] = {}
    for config in tokens.corpora.values():
        for document in documents(open_corpus(config), config, Counter()):
            split = config.split or split_name(text_hash(document.text.encode()), tokens.splits)
            asked = question_of(document.text) if split == "train" or config.database_only else None
            if asked is not None:
                found.setdefault(asked.question, asked.answer)
    if not found:
        raise ValueError("questions: expected documents with an opening of a sentence or more, got none")
    split_of = {question: split_name(text_hash(question.encode()), shares) for question in found}
    for name in SPLITS:
        chosen = [question for question in found if split_of[question] == name]
        path = Path(output) / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            for question in chosen:
                row = {"question": question, "answers": [found[question]]}
                file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
        print(f"{path}  {len(chosen):,} questions")
