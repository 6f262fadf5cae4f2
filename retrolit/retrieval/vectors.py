"""Arithmetic on many vectors with torch's matrix products: k-means, and exact nearest neighbors.

Four times faster than Faiss's own on the processors we measured, and on the GPU where there is one. Vectors have length
1 (or 0), so that the largest inner product is the nearest.

Legend: n vectors, q queries, d dimensions, C clusters, K neighbors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

BLOCK = 65_536
"""Vectors that are worked on at a time: 100 MB of 384 dimensions."""


class Vectors(Protocol):
    """Numbered vectors that need not fit into memory, e.g. `Embeddings`."""

    @property
    def dimension(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def rows(self, ids: ArrayLike) -> NDArray[np.floating]:
        """(n, d) of these ids."""
        ...


def blocks(vectors: Vectors, start: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """All vectors from `start` on, BLOCK at a time: the id of the first, and float32 (n, d)."""
    for first in range(start, len(vectors), BLOCK):
        ids = np.arange(first, min(first + BLOCK, len(vectors)))
        yield first, np.ascontiguousarray(vectors.rows(ids), dtype=np.float32)


def sample(vectors: Vectors, size: int, seed: int) -> NDArray[np.float32]:
    """(size, d): vectors drawn at random from all of them, without replacement, in the order of their ids."""
    ids = np.random.default_rng(seed).choice(len(vectors), size, replace=False, shuffle=False)
    return np.ascontiguousarray(vectors.rows(np.sort(ids)), dtype=np.float32)


class Nearest:
    """Finds the nearest of C centroids (C, d), on the GPU where there is one."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self._host = torch.from_numpy(centroids).T.contiguous()  # (d, C)
        self._centroids = self._host.cuda() if torch.cuda.is_available() else self._host

    @torch.inference_mode()
    def __call__(self, vectors: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (n, d) -> their largest inner product (n,) float32, and whose it is (n,) int64, first of equals."""
        values = torch.empty(len(vectors))
        clusters = torch.empty(len(vectors), dtype=torch.int64)
        rows = max(2**24 // self._host.shape[1], 1)  # 64 MiB of inner products at a time
        for start in range(0, len(vectors), rows):
            part = slice(start, start + rows)
            values[part], clusters[part] = self._largest(torch.from_numpy(vectors[part]))
        return values, clusters

    def _largest(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._centroids.is_cuda:
            try:
                largest = (vectors.cuda() @ self._centroids).max(dim=1)
                return largest.values.cpu(), largest.indices.cpu()
            except torch.OutOfMemoryError:
                logger.warning("the GPU's memory is full; clustering goes on on the CPU")
                self._centroids = self._host
        largest = (vectors @ self._centroids).max(dim=1)
        return largest.values, largest.indices


@torch.inference_mode()
def kmeans(vectors: NDArray[np.float32], num_clusters: int, iterations: int, seed: int) -> NDArray[np.float32]:
    """Centroids (C, d) float32 of length 1 of `vectors` (n, d), n >= C (spherical k-means).

    A centroid that nobody is nearest to moves to the vector that is farthest from its own; where all vectors sit on
    their centroids already (copies of few texts), it becomes 0 and stays out of the way.
    """
    assert len(vectors) >= num_clusters
    points = torch.from_numpy(vectors)
    start = np.random.default_rng(seed).choice(len(vectors), num_clusters, replace=False)
    centroids = points[torch.from_numpy(start)].clone()  # (C, d)
    for _ in range(iterations):
        similarity, nearest = Nearest(centroids.numpy())(vectors)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        empty = torch.bincount(nearest, minlength=num_clusters) == 0
        farthest = similarity.argsort(stable=True)[: int(empty.sum())]
        sums[empty] = points[farthest] * (similarity[farthest] < 1 - 1e-5)[:, None]
        centroids = F.normalize(sums, dim=1)
    return centroids.numpy()


@torch.inference_mode()
def exact_neighbors(
    queries: NDArray[np.float32], vectors: Vectors, k: int, exclude: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The K largest inner products of queries (q, d) with all vectors, and whose they are: (q, K) float32 and int64.

    `exclude` (q,): an id each query may not find. Where there are fewer than K the product is -inf and the id -1.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.from_numpy(queries).to(device)
    best = torch.full((len(queries), k), -torch.inf, device=device)
    ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    for start, block in blocks(vectors):
        products = wanted @ torch.from_numpy(block).to(device).T  # (q, n)
        if exclude is not None:
            inside = np.flatnonzero((exclude >= start) & (exclude < start + len(block)))
            products[torch.from_numpy(inside), torch.from_numpy(exclude[inside] - start)] = -torch.inf
        found = products.topk(min(k, len(block)), dim=1)
        merged = torch.cat([best, found.values], dim=1).topk(k, dim=1)
        ids = torch.cat([ids, found.indices + start], dim=1).gather(1, merged.indices)
        best = merged.values
    ids[best == -torch.inf] = -1
    return best.cpu().numpy(), ids.cpu().numpy()
