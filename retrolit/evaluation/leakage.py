"""Evaluation documents that are training or database documents too, and so may be read off: found, and told.

A loss on a text that the model was trained on, or that retrieval hands to it, says nothing about new text. Splits by
content (retrolit/tokens/splits.py) keep exact copies on one side; corpora that name their split themselves may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retrolit.tokens.store import content_hashes

if TYPE_CHECKING:
    from retrolit.tokens import TokenStore


@dataclass(frozen=True)
class Copy:
    """A document that stands on both sides, with the same tokens."""

    corpus: str
    """Of the evaluated document."""
    document: int
    """Its number in the corpus' store."""
    source: str
    """Where it is from, for people."""
    training_corpus: str
    """Where its copy is."""
    training_document: int
    training_source: str

    def __str__(self) -> str:
        return f"{self.source} of {self.corpus} (as {self.training_source} of {self.training_corpus})"


def find_copies(evaluated: Mapping[str, TokenStore], training: Mapping[str, TokenStore]) -> list[Copy]:
    """The evaluated documents, of all corpora, that are training documents token for token; each once, in order.

    By content hash, and then by the tokens themselves. Documents without text are no copies of each other.
    """
    hashes = {name: content_hashes(store.tokens, store.document_starts) for name, store in evaluated.items()}
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes.values()]))
    places: dict[int, tuple[str, int]] = {}
    for name, store in training.items():
        theirs = content_hashes(store.tokens, store.document_starts)
        for number in np.flatnonzero(np.isin(theirs, wanted)).tolist():
            places.setdefault(int(theirs[number]), (name, number))
    copies = []
    for name, store in evaluated.items():
        for document, hash in enumerate(hashes[name].tolist()):
            other, number = places.get(hash, (None, -1))
            if (
                other is None
                or len(store[document]) < 2
                or not np.array_equal(store[document], training[other][number])
            ):
                continue
            source, training_source = store.source(document), training[other].source(number)
            copies.append(Copy(name, document, source, other, number, training_source))
    return copies


def refuse_copies(copies: list[Copy], split: str) -> None:
    """Raises ValueError that names the first, where there are any."""
    if copies:
        more = f", and so are {len(copies) - 1} others" if len(copies) > 1 else ""
        raise ValueError(
            f"{split} split: {copies[0]} is among the documents of training and of the database, where the "
            f"model or its retriever has seen it{more}; take them out of one side, or go on with "
            "--evaluation.allow_leakage true: every result then says so"
        )
