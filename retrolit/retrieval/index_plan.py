"""Which Faiss index suits so many vectors, and what it will cost, said before it is built.

    vectors                         factory string             bytes a vector (d dimensions)
    up to 65,536                    Flat                       4 d        exact
    more, within the memory         IVF2048,SQ8                d + 8      clusters, one byte a dimension
    more than that                  OPQ64_256,IVF...,PQ64      64 + 8     clusters, compressed: recall falls by half

The number of clusters is about 2 sqrt(vectors), because building compares all vectors with all clusters. From 32,768 on
they are found through a graph (`_HNSW32`). How many of them a search visits (`nprobe`) is measured after building, so
that recall@2 reaches the target; see `card.py`.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

SMALL = 65_536
"""Up to so many vectors are searched exactly: about 2,000 queries/s on two cores."""

LARGE_QUANTIZER = 32_768
"""From so many clusters on, comparing with all of them costs more than the graph's lost recall is worth."""

KMEANS_ITERATIONS = 8
POINTS_A_CLUSTER = 32

GIB = 2**30
FLOPS_A_CORE = 50e9  # float32 matrix products on a server core of 2023

FACTORY = re.compile(
    r"(?P<rotation>OPQ\d+(?:_(?P<width>\d+))?,)?"
    r"(?:IVF(?P<clusters>\d+)(?P<graph>_HNSW\d+)?,)?"
    r"(?P<codes>Flat|SQ(?:4|6|8|fp16|bf16)|PQ\d+|RaBitQ\d?)"
)


@dataclass
class IndexConfig:
    """How the vectors are indexed; all of it is chosen when nothing is said."""

    factory: str | None = None
    """Faiss factory string, e.g. IVF4096,SQ8 or OPQ32_64,IVF65536_HNSW8,PQ32; by the number of vectors if not given."""

    nprobe: int | None = None
    """Clusters a search visits; measured, for target_recall, if not given."""

    ef_search: int | None = None
    """Width of the search for these clusters, where the factory string has HNSW; at least nprobe if not given."""

    target_recall: float = 0.9
    """Share of the true two nearest neighbors that nprobe is chosen to find."""

    max_nprobe: int = 64
    """The most that nprobe is raised to for it: twice as many take up to twice as long to search."""

    memory_gib: float = 16.0
    """An index chosen by itself stays below this."""

    training_vectors: int | None = None
    """Size of the random sample that clusters and codes are trained on; 32 for each cluster if not given."""

    card_queries: int = 500
    """Queries whose exact neighbors are computed to measure recall; 0 measures nothing."""

    seed: int = 0
    """Of the random samples."""

    def __post_init__(self) -> None:
        if self.factory is not None and not FACTORY.fullmatch(self.factory):
            raise ValueError(
                f"IndexConfig.factory: expected [OPQ..,][IVF..[_HNSW..],] and Flat, SQ.., PQ.. or RaBitQ, got "
                f"{self.factory!r}; e.g. Flat, IVF4096,SQ8 or OPQ32_64,IVF65536_HNSW8,PQ32"
            )
        if not 0 < self.target_recall <= 1:
            raise ValueError(f"IndexConfig.target_recall: expected more than 0 and at most 1, got {self.target_recall}")
        for name in ("nprobe", "max_nprobe", "ef_search", "training_vectors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"IndexConfig.{name}: expected at least 1, got {value}")
        if self.memory_gib <= 0:
            raise ValueError(f"IndexConfig.memory_gib: expected more than 0, got {self.memory_gib}")
        if self.card_queries < 0:
            raise ValueError(f"IndexConfig.card_queries: expected 0 or more, got {self.card_queries}")


@dataclass(frozen=True)
class IndexPlan:
    """An index before it is built."""

    factory: str
    """Faiss factory string."""
    clusters: int
    """Inverted lists; 0 when every vector is compared."""
    training_vectors: int
    """Size of the random sample it is trained on; 0 when there is nothing to train."""
    bytes: int
    """Of the finished index, on disk and in memory."""
    seconds: float
    """To build it on this machine's cores."""
    recall: float
    """Expected recall@2."""
    reason: str
    """Why this one."""

    def __str__(self) -> str:
        size = f"{self.bytes / GIB:,.1f} GiB" if self.bytes >= GIB else f"{self.bytes / 2**20:.1f} MiB"
        return (
            f"index {self.factory}: about {size}, {self.seconds:,.0f} s to build, recall@2 about {self.recall:.2f}; "
            f"{self.reason}"
        )


def choose_index(num_vectors: int, dimension: int, config: IndexConfig | None = None) -> IndexPlan:
    """The index for so many vectors: the factory string asked for where it can be trained, else one that can."""
    config = config or IndexConfig()
    if config.factory is not None:
        needed = _needed_to_train(config.factory)
        if needed <= num_vectors:
            return _estimate(config.factory, num_vectors, dimension, config, "as the recipe asks")
        reason = f"{config.factory} needs at least {needed:,} vectors to train, there are {num_vectors:,}: exact search"
        return _estimate("Flat", num_vectors, dimension, config, reason)
    factory, reason = _choose(num_vectors, dimension, config.memory_gib * GIB)
    return _estimate(factory, num_vectors, dimension, config, reason)


def _choose(num_vectors: int, dimension: int, memory: float) -> tuple[str, str]:
    if num_vectors <= SMALL:
        return "Flat", f"{num_vectors:,} vectors are few enough to be compared one by one"
    clusters = 2 ** round(math.log2(2 * math.sqrt(num_vectors)))
    lists = f"IVF{clusters}" + ("_HNSW32" if clusters >= LARGE_QUANTIZER else "")
    if num_vectors * (dimension + 8) <= memory:
        return f"{lists},SQ8", f"{num_vectors:,} vectors, one byte a dimension, fit into {memory / GIB:.0f} GiB"
    pieces = next((m for m in (64, 32, 16) if num_vectors * (m + 8) <= memory), 16)
    width = min(4 * pieces, dimension - dimension % pieces) or pieces
    return (
        f"OPQ{pieces}_{width},{lists},PQ{pieces}",
        f"{num_vectors:,} vectors have to be compressed to {pieces} bytes each to stay near {memory / GIB:.0f} GiB",
    )


def _parse(factory: str) -> re.Match[str]:
    match = FACTORY.fullmatch(factory)
    assert match is not None
    return match


def clusters_of(factory: str) -> int:
    """The number of inverted lists in a factory string; 0 when it has none."""
    return int(_parse(factory)["clusters"] or 0)


def _needed_to_train(factory: str) -> int:
    """The fewest vectors to train on: one for each cluster, and 39 for each of the 256 values of a quantizer's byte."""
    return max(clusters_of(factory), 39 * 256 if "PQ" in factory else 1)


def _estimate(factory: str, num_vectors: int, dimension: int, config: IndexConfig, reason: str) -> IndexPlan:
    parts = _parse(factory)
    clusters = int(parts["clusters"] or 0)
    width = int(parts["width"] or dimension)
    code = _code_bytes(parts["codes"], width)
    links = 8 * int(parts["graph"].removeprefix("_HNSW")) if parts["graph"] else 0
    size = num_vectors * (code + (8 if clusters else 0)) + clusters * (4 * width + links)
    training = _training_vectors(factory, num_vectors, config)
    comparisons = clusters if not parts["graph"] else 32 * 64
    flops = 2 * width * (training * clusters * KMEANS_ITERATIONS + num_vectors * comparisons)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seconds = flops / (FLOPS_A_CORE * cores) + num_vectors * code / 500e6
    # One byte a dimension loses next to nothing, a product quantizer's bit a dimension half of the neighbors.
    kept = min(1.0, (code / dimension) ** 0.4)
    recall = kept * (config.target_recall if clusters else 1.0)
    return IndexPlan(factory, clusters, training, size, seconds, recall, reason)


def _training_vectors(factory: str, num_vectors: int, config: IndexConfig) -> int:
    if factory == "Flat":
        return 0
    wanted = config.training_vectors or max(POINTS_A_CLUSTER * clusters_of(factory), 65_536)
    return min(num_vectors, max(wanted, _needed_to_train(factory)))


def _code_bytes(codes: str, width: int) -> int:
    if codes == "Flat":
        return 4 * width
    if codes.startswith("PQ"):
        return int(codes.removeprefix("PQ"))
    if codes.startswith("RaBitQ"):
        bits = int(codes.removeprefix("RaBitQ") or 1)
        return -(-width * bits // 8) + (8 if bits == 1 else 20)  # and a few factors
    bits = {"SQ4": 4, "SQ6": 6, "SQ8": 8, "SQfp16": 16, "SQbf16": 16}[codes]
    return -(-width * bits // 8)
