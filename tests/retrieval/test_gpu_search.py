"""Exact search moves to the GPU where Faiss can use one, and else says why not in a line."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from retrolit.retrieval import Index, IndexConfig, build_index
from retrolit.retrieval.gpu_search import search_on_gpu


@pytest.fixture
def exact(clustered, tmp_path: Path) -> Index:
    index = build_index(clustered, IndexConfig("Flat"), tmp_path / "exact")
    assert index is not None
    return index


def told(index: Index, k: int = 5) -> list[str]:
    lines: list[str] = []
    search_on_gpu(index, k, lines.append)
    return lines


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_said(exact: Index) -> None:
    assert told(exact) == []


def test_a_gpu_that_stays_unused_is_told_of(
    exact: Index, clustered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = build_index(clustered, IndexConfig("IVF32,SQ8"), tmp_path / "clusters")
    assert clusters is not None
    before = exact.search(clustered.array[:50], 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    [line] = told(exact)
    assert "this Faiss knows no GPU" in line
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    [line] = told(exact, k=3000)
    assert "at most 2,048 neighbors, 3,000 are searched" in line

    def no_memory(index):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", no_memory, raising=False)
    [line] = told(exact)
    assert "Faiss could not use the GPU (out of memory)" in line
    for values, expected in zip(exact.search(clustered.array[:50], 5), before, strict=True):
        np.testing.assert_array_equal(values, expected)
    assert told(clusters) == [], "clusters are searched on the CPU anyway"


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(exact: Index, clustered) -> None:
    if not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("needs faiss-gpu")
    distances, ids = exact.search(clustered.array[:200], 10)
    assert told(exact) == []
    again, found = exact.search(clustered.array[:200], 10)
    np.testing.assert_allclose(again, distances, atol=1e-5)
    assert (found == ids).mean() > 0.99  # but for equals
