"""Directions in word space along which a chunk resembles the chunk that follows it.

What a text goes on about (its people, places, its subject) is in the next chunk again; turns of phrase are not. With X
the chunks of a sample as rows over words, and Y the chunks that follow them, the directions are the leading
eigenvectors of (X^T Y + Y^T X) / 2. Latent semantic analysis takes those of X^T X, which also has to explain what does
not last; for finding text that helps with the next chunk these are better, and better than all words unprojected
(docs/retrieval.md has the numbers).

The eigenvectors come from subspace iteration: the matrix, V x V, is only ever multiplied, never made.

Legend: n chunks, W words, D directions.
"""

from __future__ import annotations

import torch

OVERSAMPLING = 16
"""Directions iterated beyond those asked for: the last ones come out less exact."""

ITERATIONS = 4


def fit_directions(chunks: torch.Tensor, following: torch.Tensor, dimension: int, seed: int = 0) -> torch.Tensor:
    """(W, D) float32: every word's place along the leading directions, strongest first.

    `chunks`, `following`: (n, W) sparse CSR. Where there are fewer words than directions, the last columns are zero.
    """
    num_words = chunks.shape[1]
    directions = torch.zeros(num_words, dimension)
    width = min(dimension + OVERSAMPLING, num_words)
    if not width:
        return directions
    chunks_t, following_t = (m.transpose(0, 1).to_sparse_csr() for m in (chunks, following))

    def product(basis: torch.Tensor) -> torch.Tensor:
        """(X^T Y + Y^T X) / 2 times a basis (W, width)."""
        return (chunks_t @ (following @ basis) + following_t @ (chunks @ basis)) / 2

    basis = torch.randn(num_words, width, generator=torch.Generator().manual_seed(seed))
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(product(basis)).Q
    small = basis.T @ product(basis)  # (width, width)
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    leading = values.argsort(descending=True)[:dimension]
    directions[:, : len(leading)] = basis @ vectors[:, leading]
    return directions
