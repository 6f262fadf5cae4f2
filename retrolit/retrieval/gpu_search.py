"""Exact search on the GPU, where Faiss was built for one (`faiss-gpu`).

Only indexes that compare every vector are copied there: that is where a GPU gains most, and clusters are searched from
the disk. Clusters are trained, and what is true for the index card is computed, by torch (see vectors.py), which uses
the GPU whichever Faiss is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from retrolit.retrieval.index import Index, load_faiss

MOST_NEIGHBORS = 2048
"""A search on a GPU finds no more than so many."""


def search_on_gpu(index: Index, k: int, tell: Callable[[str], None]) -> None:
    """Moves an exact index, to be searched for k neighbors, to the GPUs; `tell` gets a line where they stay unused.

    One thread at a time may search it then, so this is for making neighbor tables, not for a LiveRetriever.
    """
    if index.manifest.settings["factory"] != "Flat" or not torch.cuda.is_available():
        return
    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        tell('exact search stays on the CPU: this Faiss knows no GPU; pip install "retrolit[gpu]" in place of [cpu]')
    elif k > MOST_NEIGHBORS:
        tell(f"exact search stays on the CPU: a GPU finds at most {MOST_NEIGHBORS:,} neighbors, {k:,} are searched")
    else:
        try:
            index.replace_shards(faiss.index_cpu_to_all_gpus)
        except RuntimeError as error:  # as Faiss tells of too little memory, or too old a driver
            tell(f"exact search stays on the CPU: Faiss could not use the GPU ({str(error).strip()})")
