"""Can a prepared corpus be evaluated on? What its evaluation splits share with the training documents, and how much.

disjointness     documents that stand in two splits, token for token: none, or the splits are no splits
near duplicates  evaluation documents with a training or database document that shares most of their 13-grams
neighbors        how much of each evaluation chunk its neighbors hold: the overlap of RETRO, section 2.6
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from retrolit.evaluation.document_twins import find_twins
from retrolit.evaluation.leakage import find_copies
from retrolit.evaluation.overlap import chunk_overlap
from retrolit.retrieval import PreparedRetriever
from retrolit.tokens import TokenStore
from retrolit.tokens.progress import Progress, silent

if TYPE_CHECKING:
    from retrolit.data.preparation import Prepared

OVERLAP_BINS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def leakage_report(prepared: Prepared, threshold: float = 0.8, progress: Progress = silent) -> dict[str, Any]:
    """All of it, in JSON's types."""
    stores = {
        split: {name: TokenStore(prefix) for name, prefix in prefixes.items()}
        for split, prefixes in prepared.tokens.stores.items()
    }
    database_only = {name: TokenStore(prefix) for name, prefix in prepared.tokens.database.items()}
    documents = {split: sum(map(len, of_split.values())) for split, of_split in stores.items()}
    report: dict[str, Any] = {
        "tokens": prepared.tokens.fingerprint,
        "documents": documents | ({"database": sum(map(len, database_only.values()))} if database_only else {}),
        "threshold": threshold,
        "disjoint": {},
        "near_duplicates": {},
        "neighbor_overlap": {},
    }
    for first, second in combinations(stores, 2):
        report["disjoint"][f"{second} in {first}"] = [asdict(c) for c in find_copies(stores[second], stores[first])]
    for split in ("validation", "test"):
        if database_only:
            copies = find_copies(stores[split], database_only)
            report["disjoint"][f"{split} in database"] = [asdict(copy) for copy in copies]
        twins = find_twins(stores[split], stores["train"] | database_only, threshold, progress)
        report["near_duplicates"][split] = [asdict(twin) for twin in twins]
        if prepared.retrieval is not None:
            report["neighbor_overlap"][split] = _histogram(prepared, stores[split], split)
    return report


def _histogram(prepared: Prepared, stores: Mapping[str, TokenStore], split: str) -> list[dict[str, Any]]:
    """How many chunks lie in each range of overlap; the first is none at all."""
    assert prepared.retrieval is not None
    database = prepared.retrieval.database()
    tables = prepared.retrieval.tables[split]
    parts = [chunk_overlap(PreparedRetriever(tables[name], store, database)) for name, store in stores.items()]
    overlap = np.concatenate([np.empty(0, np.float32), *parts])
    overlap = overlap[~np.isnan(overlap)]
    place = np.searchsorted(OVERLAP_BINS, overlap, side="left")  # 0 is a bin of its own, the others hold their end
    counts = np.bincount(place, minlength=len(OVERLAP_BINS)).tolist()
    return [{"at_most": most, "chunks": count} for most, count in zip(OVERLAP_BINS, counts, strict=True)]
