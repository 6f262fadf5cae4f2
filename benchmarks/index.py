"""The index that is chosen for a million vectors: CPU seconds to build it, recall@2, queries a second.

    python -m benchmarks.index [--vectors 1000000] [--clusters 1000] [--spread 1.0] [--factory IVF4096,SQ8]

Vectors of 384 dimensions lie around random centers, `spread` as far from them as the centers are from the origin.
Goals on two cores: recall@2 of 0.9 at 3,000 queries/s, 60 CPU seconds to build, measuring included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from retrolit.retrieval import IndexConfig, build_index, choose_index
from retrolit.retrieval.card import Card
from retrolit.retrieval.vectors import exact_neighbors


class Rows:
    """Vectors in memory."""

    def __init__(self, rows: np.ndarray) -> None:
        self.array, self.dimension, self.fingerprint = rows, rows.shape[1], "benchmark"

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        return self.array[ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=1_000)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--factory", default=None)
    options = parser.parse_args()
    print(describe("faiss-cpu", "numpy"))
    points = clustered(options.vectors + 8_192, options.clusters, options.spread)
    vectors, queries = Rows(points[:-8_192]), points[-8_192:]
    config = IndexConfig(options.factory)
    print(choose_index(len(vectors), vectors.dimension, config))
    with tempfile.TemporaryDirectory() as folder:
        cpu = time.process_time()
        index = build_index(vectors, config, Path(folder) / "index", progress=timed)
        print(f"built in {time.process_time() - cpu:.1f} CPU s")
        assert index is not None
        print(Card.read(index.folder))
        _, true = exact_neighbors(queries[:1000], vectors, 2)
        for k in (2, 200):
            wall, cpu = time.perf_counter(), time.process_time()
            _, found = index.search(queries, k)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            hits = (found[:1000, :2, None] == true[:, None]).any(axis=1).mean()
            speed = f"{len(queries) / wall:,.0f} queries/s, {1e3 * cpu / len(queries):.2f} CPU ms each"
            print(f"k {k}: recall@2 {hits:.3f}, {speed}")


@contextmanager
def timed(stage: str, total: int | None, unit: str = "bytes") -> Iterator:
    wall, cpu = time.perf_counter(), time.process_time()
    yield lambda done: None
    print(f"  {stage}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s", flush=True)


def clustered(number: int, clusters: int, spread: float) -> np.ndarray:
    """(number, 384) float32, rows of length 1."""
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((clusters, 384), dtype=np.float32)
    points = np.empty((number, 384), np.float32)
    for start in range(0, number, 50_000):
        part = points[start : start + 50_000]
        generator.standard_normal(out=part, dtype=np.float32)
        part *= spread
        part += centers[generator.integers(0, clusters, len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return points


if __name__ == "__main__":
    main()
