"""The nearest chunks of very many queries: list by list, all queries that look into it at once.

`Index.search` takes one query after the other and reads every list it visits for this query alone. Where neighbors of
all chunks are wanted, thousands of queries visit each list: its vectors are decoded once, and one matrix product
compares them with all of these. What is found is what `Index.search` finds, up to rounding. Without clusters the lists
are pieces of the whole, few and large, and the products are made on the GPU where there is one.

The best of a query so far are a row of whole numbers that sort by similarity and then by id, so that it makes no
difference in which order, and by how many threads, lists are read:

    key = similarity + 2, in steps of 2^-16 | 40 bits of 2^40 - 1 - id        0 for none
    row = K best so far | found since | 0 0 0 ...                             3 K of them

Whenever a row is full it is cut to its K best again, and what is below the K-th of them, the query's floor, is not even
looked at any more. The nearest lists come first, so that floors are high before most of the vectors are compared.

Legend: q queries, d dimensions, P lists a query visits, n vectors of a list, m queries that visit it, K neighbors.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from retrolit.retrieval.index import ID_BITS, LAST_ID, STEPS, nearest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.retrieval.index import Index

logger = logging.getLogger(__name__)

FEWEST_VISITS = 32
"""So many queries have to visit a list for decoding it to pay."""
MOST_CORES = 8
"""With more, Python keeps them from working at the same time, and Faiss is faster: 16 of them by 7 times, measured."""

CPU_PRODUCTS = 2**18
"""Inner products that are worked on at a time: 1 MiB, which stays in a core's cache."""
GPU_PRODUCTS = 2**25

ROWS = 8_192
"""Queries that one thread works on at a time."""
MOST_VISITS = 2**24
"""Pairs of a query and a list it visits that are held at a time: 400 MB with what it takes to sort them."""


def search_many(index: Index, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """See `Index.search`: distances (q, K) and ids (q, K) of the K = k nearest, for tens of thousands of queries.

    Takes about 36 K + 8 d bytes of memory a query. Left to `Index.search` is what it does sooner, and codes that say
    more about a vector together with the query than alone (RaBitQ). The number of threads decides nothing: one process
    or several come to the same bytes.
    """
    on_gpu = torch.cuda.is_available() and not index.has_clusters
    visits_a_list = len(queries) * index.num_visited / index.num_lists
    too_many_cores = (os.cpu_count() or 1) > MOST_CORES and not on_gpu
    if not index.has_lists or visits_a_list < FEWEST_VISITS or too_many_cores:
        return index.search(queries, k)
    index.check(queries)
    step = max(MOST_VISITS // index.num_visited, 1)
    parts = [_search_part(index, queries[start : start + step], k, on_gpu) for start in range(0, len(queries), step)]
    distances, ids = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(ids)


def _search_part(
    index: Index, queries: NDArray[np.float32], k: int, on_gpu: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rotated = index.rotate(queries)
    visited = index.visited(rotated)
    if on_gpu:
        try:
            return _search(index, rotated, visited, k, torch.device("cuda"))
        except torch.OutOfMemoryError:
            logger.warning("the GPU's memory is full; %s queries are searched on the CPU", f"{len(queries):,}")
    return _search(index, rotated, visited, k, torch.device("cpu"))


def _search(
    index: Index, queries: NDArray[np.float32], visited: NDArray[np.int64], k: int, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`visited` (q, P): the lists each query looks into, the nearest first, -1 for none."""
    best = _Best(len(queries), k, device)
    points = torch.from_numpy(queries).to(device)
    products = CPU_PRODUCTS if device.type == "cpu" else GPU_PRODUCTS
    with _threads() as pool:
        start, end = 0, 1
        while start < visited.shape[1]:

            def read(number: int, visitors: NDArray[np.int64]) -> None:
                vectors, ids = (torch.from_numpy(array).to(device) for array in index.read_list(number))
                if len(ids):
                    for rows in torch.from_numpy(visitors).to(device).split(max(products // len(ids), 64)):
                        best.compare(rows, points[rows] @ vectors.T, ids)

            list(pool.map(read, *zip(*_by_list(visited[:, start:end]), strict=True)))
            list(pool.map(best.cut, torch.arange(len(queries), device=device).split(ROWS)))
            start, end = end, 4 * end
        found = list(pool.map(best.nearest, torch.arange(len(queries), device=device).split(ROWS)))
    distances, ids = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(ids)


class _Best:
    """The K nearest vectors of every query among those compared so far; many threads may compare at once."""

    def __init__(self, num_queries: int, k: int, device: torch.device) -> None:
        self.k, self.width = k, 3 * k
        self._keys = torch.zeros((num_queries, self.width), dtype=torch.int64, device=device)
        self._filled = torch.zeros(num_queries, dtype=torch.int64, device=device)
        self._floor = torch.full((num_queries,), -torch.inf, device=device)
        self._lock = threading.Lock()

    def compare(self, rows: torch.Tensor, products: torch.Tensor, ids: torch.Tensor) -> None:
        """Takes in what is near among inner products (m, n) of the queries `rows` (m,) with vectors `ids` (n,)."""
        m, n = products.shape
        found = _at_least(products, self._floor[rows])
        row = found // n
        counts = torch.bincount(row, minlength=m)
        if n > self.k:
            crowded = counts > self.k
            if crowded.any():  # as in a query's first list: all vectors pass, and the K best of them will do
                keys = _largest(_key(products[crowded], ids), self.k)
                self._add(rows[crowded], torch.full_like(rows[crowded], self.k), keys.reshape(-1))
                rest = ~crowded[row]
                found, row = found[rest], row[rest]
                counts.masked_fill_(crowded, 0)
        self._add(rows, counts, _key(products.view(-1)[found], ids[found - row * n]))

    def cut(self, rows: torch.Tensor) -> None:
        """Cuts the rows (m,) that hold K or more to their K best."""
        rows = rows[self._filled[rows] >= self.k]
        keys = self._keys[rows]
        keys[torch.arange(self.width, device=keys.device) >= self._filled[rows, None]] = 0
        keys = _largest(keys, self.k)
        self._keys[rows, : self.k] = keys
        self._filled[rows] = self.k
        # One step lower, because a similarity just below the K-th may be rounded to the same key.
        self._floor[rows] = ((keys.amin(dim=1) >> ID_BITS) - 1) / STEPS - 2

    def nearest(self, rows: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distances and ids (m, K) of the queries `rows` (m,), which were cut."""
        keys = self._keys[rows, : self.k]
        keys[torch.arange(self.k, device=keys.device) >= self._filled[rows, None]] = 0
        return nearest_of(keys.cpu().numpy(), self.k)

    def _add(self, rows: torch.Tensor, counts: torch.Tensor, keys: torch.Tensor) -> None:
        """Appends counts (m,) of the keys, which follow each other, to each of the rows (m,)."""
        with self._lock:
            full = self._filled[rows] + counts > self.width
            if full.any():
                self.cut(rows[full])
            filled = self._filled[rows]
            self._filled[rows] = filled + counts
            first = rows * self.width + filled - (counts.cumsum(0) - counts)
            self._keys.view(-1)[first.repeat_interleave(counts) + torch.arange(len(keys), device=keys.device)] = keys


def _key(similarity: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Similarities to whole numbers, see above; `ids` as many, or one for each of the last axis."""
    steps = ((similarity.clamp(-1.5, 1) + 2) * STEPS).to(torch.int64)
    return (steps << ID_BITS) | (LAST_ID - ids)


def _at_least(products: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """The places in products (m, n), row after row, of all that are not below their row's floor (m,)."""
    if products.is_cuda:
        return (products >= floor[:, None]).view(-1).nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(products.numpy() >= floor.numpy()[:, None]))  # three times torch's speed


def _largest(keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest (m, k) of each row (m, n), in any order."""
    if keys.is_cuda:
        return keys.topk(k, dim=1, sorted=False).values
    return torch.from_numpy(np.partition(keys.numpy(), keys.shape[1] - k, axis=1)[:, -k:])  # a tenth of topk's time


def _by_list(visited: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """From the lists each query visits (q, p): the number of every list, and at most ROWS of the queries that do; a
    list that more of them visit comes several times."""
    visits = visited * 2**32 + np.arange(len(visited))[:, None]
    visits = np.sort(visits[visited >= 0])
    numbers, bounds = np.unique(visits >> 32, return_index=True)
    for number, queries in zip(numbers.tolist(), np.split(visits & (2**32 - 1), bounds[1:]), strict=True):
        for first in range(0, len(queries), ROWS):
            yield number, queries[first : first + ROWS]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch would use for one operation, each of which does its operations alone."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(number) as pool:
            yield pool
    finally:
        torch.set_num_threads(number)
