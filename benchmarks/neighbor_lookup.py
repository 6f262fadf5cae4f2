"""Milliseconds to look up the neighbors of a training batch in a neighbor table, from a warm page cache.

    python -m benchmarks.neighbor_lookup [--rounds 200]

A batch is 4 samples of 2,048 tokens: 128 chunks with 2 neighbors of 128 tokens, without those of a sample's own
documents. Goal: under 1 ms. The table and the store are random, 100,000 chunks of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from retrolit.retrieval import ChunkDatabase, PreparedRetriever
from retrolit.retrieval.neighbors import KIND
from retrolit.storage import Manifest
from retrolit.tokens import TokenStore, write_store

M, SAMPLES, CHUNKS, K = 64, 4, 32, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print(describe("numpy"))
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        retriever = make(Path(folder), generator)
        last = len(retriever.table) - CHUNKS
        times = []
        for _ in range(options.rounds):
            first = generator.integers(0, last, SAMPLES)
            start = time.perf_counter()
            retriever.samples(first, CHUNKS, K)
            times.append(time.perf_counter() - start)
    median, fastest = 1e3 * statistics.median(times), 1e3 * min(times)
    print(f"{SAMPLES} x {CHUNKS * M} tokens: median {median:.2f} ms, fastest {fastest:.2f} ms")


def make(folder: Path, generator: np.random.Generator) -> PreparedRetriever:
    """A store of 4,000 documents of about 25 chunks, and a table of 20 random neighbors for each chunk."""
    lengths = generator.integers(100, 3100, 4000)
    write_store(folder / "train", [[*generator.integers(0, 50_000, n).tolist(), 50_000] for n in lengths], 50_001)
    store = TokenStore(folder / "train")
    database = ChunkDatabase([store], M)
    chunks = -(-store.num_tokens // M)
    table = folder / "table"
    table.mkdir()
    generator.integers(0, len(database), (chunks, 20)).astype("<i4").tofile(table / "ids.bin")
    np.zeros((chunks, 20), np.float16).tofile(table / "distances.bin")
    settings = {"num_saved": 20, "chunk_length": M}
    inputs = {"store": store.fingerprint, "database": database.fingerprint}
    files = {"ids.bin": {}, "distances.bin": {}}
    Manifest(KIND, settings, inputs, {"chunks": chunks, "dtype": "<i4"}, files).write(table)
    return PreparedRetriever(table, store, database)


if __name__ == "__main__":
    main()
