"""The index card: what an index finds of what there is to find, how fast, and how large it is.

Recall@k is the share of the true k nearest neighbors among the k found. A found vector that is as near as the true k-th
counts, whichever id it has, so that copies of a text do not look like mistakes.

Legend: q queries, d dimensions, K neighbors.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrolit.retrieval.index import Index
from retrolit.retrieval.index_plan import IndexConfig, IndexPlan
from retrolit.retrieval.vectors import Vectors, exact_neighbors
from retrolit.storage import read_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE_NAME = "card.json"
RECALL_AT = (1, 2, 10)
SAME = 2e-5  # inner products that differ by less are equal: a step of a search's distances, and rounding

FEWEST_PROBES = 4


@dataclass(frozen=True)
class Truth:
    """Queries and what exact search finds for them."""

    queries: NDArray[np.float32]
    """(q, d)"""
    itself: NDArray[np.int64] | None
    """(q,): the id of each query among the vectors, which does not count as found; None when it is not among them."""
    similarity: NDArray[np.float32]
    """(q, 10): inner products of the true neighbors, the largest first, -inf where there are no more."""


@dataclass(frozen=True)
class Card:
    """Measurements of one index, in card.json beside it."""

    factory: str
    reason: str
    nprobe: int | None
    ef_search: int | None
    vectors: int
    bytes: int
    bytes_per_vector: float
    queries: int
    """How many were measured; 0 leaves the numbers below empty."""
    held_out: bool
    """Whether the queries are from elsewhere; else they are vectors of the index that may not find themselves."""
    recall: dict[str, float]
    """recall@1, @2 and @10 against exact search."""
    self_recall: float | None
    """Share of its own vectors that the index finds in their first place, or copies of them."""
    queries_per_second: float | None
    """Two neighbors each, in batches, on this machine."""
    target_recall: float
    """What nprobe was chosen for."""

    def write(self, folder: Path) -> None:
        """Writes card.json."""
        write_json(folder / FILE_NAME, asdict(self))

    @classmethod
    def read(cls, folder: str | Path) -> Card:
        """The card of a finished index."""
        return cls(**read_json(Path(folder) / FILE_NAME))

    def __str__(self) -> str:
        rows = [
            ("index", self.factory),
            ("because", self.reason),
            ("vectors", f"{self.vectors:,}, {self.bytes_per_vector:.0f} bytes each, {self.bytes / 2**20:,.0f} MiB"),
        ]
        if self.nprobe is not None:
            rows.append(
                ("search", f"nprobe {self.nprobe}" + (f", efSearch {self.ef_search}" if self.ef_search else ""))
            )
        if self.queries:
            recall = ", ".join(f"@{k} {value:.3f}" for k, value in sorted(self.recall.items(), key=_at))
            rows.append(
                ("recall", f"{recall} ({self.queries} {'held-out' if self.held_out else 'leave-one-out'} queries)")
            )
            rows.append(("itself", f"{self.self_recall:.3f} of its own vectors in first place"))
            rows.append(("speed", f"{self.queries_per_second:,.0f} queries/s"))
            if self.nprobe is not None and self.recall["2"] < self.target_recall:
                note = f"recall@2 is below {self.target_recall}; index.max_nprobe: {4 * self.nprobe} finds more"
                rows.append(("note", f"{note}, and takes up to four times as long"))
        return "\n".join(f"{name:9} {value}" for name, value in rows)


def _at(item: tuple[str, float]) -> int:
    return int(item[0])


def find_truth(vectors: Vectors, queries: NDArray[np.float32] | None, number: int, seed: int) -> Truth:
    """Exact search for at most `number` of the held-out queries (q, d), or for vectors drawn from the index itself."""
    generator = np.random.default_rng(seed + 1)  # another sample than the one for training
    itself = None
    if queries is None or not len(queries):
        itself = np.sort(generator.choice(len(vectors), min(number, len(vectors)), replace=False))
        queries = np.ascontiguousarray(vectors.rows(itself), dtype=np.float32)
    elif len(queries) > number:
        queries = queries[np.sort(generator.choice(len(queries), number, replace=False))]
    similarity, _ = exact_neighbors(queries, vectors, max(RECALL_AT), itself)
    return Truth(queries, itself, similarity)


def recall(index: Index, vectors: Vectors, truth: Truth, at: tuple[int, ...] = RECALL_AT) -> list[float]:
    """recall@k for every k of `at`; queries without a neighbor do not count, and 1 where none has any."""
    most = max(at)
    _, ids = index.search(truth.queries, most + 1)
    if truth.itself is not None:
        last = np.argsort(ids == truth.itself[:, None], axis=1, kind="stable")  # itself behind all others
        ids = np.where(ids == truth.itself[:, None], -1, ids)
        ids = np.take_along_axis(ids, last, axis=1)
    ids = ids[:, :most]
    rows = vectors.rows(np.maximum(ids, 0).reshape(-1)).reshape(*ids.shape, -1).astype(np.float32)
    found = np.einsum("qd,qkd->qk", truth.queries, rows)
    found[ids < 0] = -np.inf
    shares = []
    for k in at:
        exists = truth.similarity[:, :k] > -np.inf
        worst = np.where(exists, truth.similarity[:, :k], np.inf).min(axis=1)[:, None]
        hits = ((found[:, :k] >= worst - SAME) & (ids[:, :k] >= 0)).sum(axis=1)
        shares.append(float(np.minimum(hits, exists.sum(axis=1)).sum() / exists.sum()) if exists.any() else 1.0)
    return shares


def choose_nprobe(index: Index, vectors: Vectors, truth: Truth | None, clusters: int, config: IndexConfig) -> int:
    """The fewest clusters that find the target share of the two nearest, within max_nprobe, or more find hardly more.

    The measured share has to exceed the target by its own uncertainty.
    """
    most = min(config.max_nprobe, clusters)
    if truth is None:
        return most
    powers = [FEWEST_PROBES << i for i in range(most.bit_length())]
    grid = [nprobe for power in powers for nprobe in (power, power * 3 // 2) if nprobe < most]
    shares: dict[int, float] = {}
    for nprobe in [*grid, most]:
        index.set_search(nprobe, config.ef_search)
        shares[nprobe] = recall(index, vectors, truth, (2,))[0]
        uncertainty = (shares[nprobe] * (1 - shares[nprobe]) / (2 * len(truth.queries))) ** 0.5
        if shares[nprobe] - uncertainty >= config.target_recall:
            return nprobe
        if shares[nprobe] - shares.get(nprobe // 4, 0.0) < 0.005:  # the codes lose the rest, not the clusters
            break
    best = max(shares.values())
    return next(nprobe for nprobe, share in shares.items() if share >= best - 0.005)


def make_card(index: Index, vectors: Vectors, truth: Truth | None, plan: IndexPlan, settings: dict[str, Any]) -> Card:
    """Measures the index as its settings say it is set to search."""
    size = sum(path.stat().st_size for path in index.folder.glob("shard-*.faiss"))
    shares: dict[str, float] = {}
    self_recall = queries_per_second = None
    if truth is not None:
        shares = {str(k): share for k, share in zip(RECALL_AT, recall(index, vectors, truth), strict=True)}
        ids = np.sort(np.random.default_rng(0).choice(len(vectors), min(1000, len(vectors)), replace=False))
        own = np.ascontiguousarray(vectors.rows(ids), dtype=np.float32)
        start = time.perf_counter()
        _, found = index.search(own, 2)
        queries_per_second = len(own) / (time.perf_counter() - start)
        best = vectors.rows(np.maximum(found[:, 0], 0)).astype(np.float32)
        same = np.einsum("qd,qd->q", own, best) >= np.einsum("qd,qd->q", own, own) - SAME
        self_recall = float((same & (found[:, 0] >= 0)).mean())
    return Card(
        plan.factory,
        plan.reason,
        settings["search"]["nprobe"],
        settings["search"]["ef_search"],
        len(vectors),
        size,
        size / len(vectors),
        len(truth.queries) if truth is not None else 0,
        truth is not None and truth.itself is None,
        shares,
        self_recall,
        queries_per_second,
        settings["target_recall"],
    )
