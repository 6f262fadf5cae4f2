"""A finished index: vectors in, the ids of the nearest chunks out, read from disk as needed.

    index-<key>/trained.faiss      clusters and codes, without vectors
    index-<key>/shard-0000.faiss   vectors 0 to n; every shard has at most about 4 GiB of codes
    index-<key>/shard-0001.faiss   the next ones; shards are built one at a time, or added later
    index-<key>/card.json          what it finds, how fast, how large (see card.py)
    index-<key>/manifest.json

Shards are searched as one index: each cluster's list is the shards' lists one after the other. This is the one file
that imports Faiss.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrolit.storage import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

KIND = "index"
TRAINED = "trained.faiss"

STEPS = 2**16
"""Similarities are told apart in steps of 1/65,536, because copies of a vector differ by the rounding of products."""

ID_BITS = 40
LAST_ID = 2**ID_BITS - 1

SPARE = 8
"""So many more neighbors are searched for, so that the lowest ids are among those that are as near as the last."""

PIECE = 4_096
"""Vectors of an index without clusters that are read at a time."""

_prepared_for_fork = False


def load_faiss() -> Any:
    """The module faiss, or a sentence that says how to install it.

    Raises:
        ImportError: it is not installed.
    """
    global _prepared_for_fork  # noqa: PLW0603
    try:
        import faiss
    except ImportError as error:
        raise ImportError('retrieval needs faiss: pip install "retrolit[cpu]" (or [gpu])') from error
    if not _prepared_for_fork:
        # A forked process, e.g. a data loader's worker, lacks its parent's OpenMP threads and would wait for them.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))
        _prepared_for_fork = True
    return faiss


class Index:
    """The index in `folder`, opened in well under a second whatever its size; many threads may search it at once.

    Raises:
        FileNotFoundError, ValueError: there is none, or its files are not those its manifest lists.
        ImportError: faiss is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(folder, KIND)
        self.manifest.verify(folder)
        self.fingerprint = self.manifest.fingerprint
        search = self.manifest.settings["search"]
        self._open(self.manifest.sizes["shards"])
        assert len(self) == self.manifest.sizes["vectors"]
        self.set_search(search["nprobe"], search["ef_search"])

    @classmethod
    def unfinished(cls, folder: Path, shards: int) -> Index:
        """An index whose manifest is not written yet; for its builder."""
        index = cls.__new__(cls)
        index.folder = folder
        index._open(shards)
        return index

    def __len__(self) -> int:
        return sum(shard.ntotal for shard in self._shards)

    @property
    def dimension(self) -> int:
        return self._shards[0].d

    def set_search(self, nprobe: int | None, ef_search: int | None) -> None:
        """How many clusters a search visits, and how widely it searches for them; None where there are no clusters."""
        if self._lists is None:
            return
        faiss = load_faiss()
        self._lists.nprobe = nprobe
        quantizer = faiss.downcast_index(self._lists.quantizer)
        if hasattr(quantizer, "hnsw"):
            quantizer.hnsw.efSearch = max(ef_search or 0, nprobe or 1)

    def search(self, queries: NDArray[np.floating], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest chunks of each query (n, d), rows of length 1: distances (n, k) float32 and ids (n, k) int64.

        A distance is 1 - cosine: 0 for the same vector, 1 for one that has nothing in common, in steps of 1/65,536.
        Nearest first, the lower id first among equals. Where fewer than k are found the id is -1 and the distance
        infinite.

        Raises:
            ValueError: the queries have another dimension than the index.
        """
        self.check(queries)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self._lists is not None or len(self._shards) == 1:
            similarity, ids = self._shards[0].search(queries, k + SPARE)
        else:
            similarity, ids = self._search_shards(queries, k + SPARE)
        steps = ((similarity.clip(-1.5, 1) + 2) * STEPS).astype(np.int64)
        return nearest_of(np.where(ids < 0, 0, (steps << ID_BITS) | (LAST_ID - ids)), k)

    def check(self, queries: NDArray[np.floating]) -> None:
        """Raises ValueError where the queries (n, d) have another dimension than the index."""
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(
                f"queries: expected (n, {self.dimension}) as the index {self.folder} has, got {queries.shape}; were "
                f"they embedded by another embedder?"
            )

    @property
    def has_lists(self) -> bool:
        """Whether the functions below can be used: whether a vector can be decoded without the query."""
        return "RaBitQ" not in type(codes_of(self._shards[0])).__name__

    def rotate(self, queries: NDArray[np.floating]) -> NDArray[np.float32]:
        """Queries (n, d) as the vectors of lists are: after the rotation of OPQ, where there is one."""
        rotated = np.ascontiguousarray(queries, dtype=np.float32)
        for rotation in rotations_of(self._shards[0]):
            rotated = rotation.apply(rotated)
        return rotated

    @property
    def has_clusters(self) -> bool:
        """Whether a search compares the vectors of some clusters, instead of all vectors."""
        return self._lists is not None

    @property
    def num_lists(self) -> int:
        """How many lists there are: clusters, or pieces of the whole."""
        return self._lists.nlist if self._lists is not None else int(self._pieces()[-1])

    @property
    def num_visited(self) -> int:
        """P: how many of them a search of one query looks into."""
        return self._lists.nprobe if self._lists is not None else self.num_lists

    def visited(self, rotated: NDArray[np.float32]) -> NDArray[np.int64]:
        """The lists that a search of each query (n, d) looks into, the nearest first: (n, P), -1 where there are fewer.

        Without clusters these are pieces of the whole, all of which every query visits.
        """
        if self._lists is None:
            return np.broadcast_to(np.arange(self.num_visited), (len(rotated), self.num_visited))
        return self._lists.quantizer.search(rotated, self.num_visited)[1]

    def read_list(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The decoded vectors (n, d) of a list, and their ids (n,)."""
        faiss = load_faiss()
        if self._lists is None:
            pieces = self._pieces()
            shard = int(np.searchsorted(pieces, number, side="right"))
            first = PIECE * (number - int(pieces[shard - 1] if shard else 0))
            codes = codes_of(self._shards[shard])
            vectors = codes.reconstruct_n(first, min(PIECE, codes.ntotal - first))
            return vectors, sum(one.ntotal for one in self._shards[:shard]) + first + np.arange(len(vectors))
        from faiss.contrib.inspect_tools import get_invlist

        ids, codes = get_invlist(self._lists.invlists, number)
        vectors = np.empty((len(ids), self._lists.d), dtype=np.float32)
        arrays = codes, np.full(len(ids), number), vectors
        self._lists.decode_vectors(len(ids), *map(faiss.swig_ptr, arrays))
        return vectors, ids

    def _pieces(self) -> NDArray[np.int64]:
        """The number of pieces up to the end of each shard."""
        return np.cumsum([-(-shard.ntotal // PIECE) for shard in self._shards])

    def _open(self, shards: int) -> None:
        """Sets `_shards`, the Faiss indexes to search, and `_lists`, the inverted lists in them or None."""
        faiss = load_faiss()
        opened = [_read(self.folder / shard_name(number)) for number in range(shards)]
        self._lists = faiss.try_extract_index_ivf(opened[0])
        self._shards = opened
        if self._lists is None or shards == 1:
            return
        self._kept = opened  # the joined lists below point into them
        lists = faiss.InvertedListsPtrVector()
        for shard in opened:
            lists.push_back(faiss.extract_index_ivf(shard).invlists)
        self._joined = faiss.HStackInvertedLists(lists.size(), lists.data())
        whole = _read(self.folder / TRAINED)
        self._lists = faiss.extract_index_ivf(whole)
        self._lists.replace_invlists(self._joined, False)
        self._lists.ntotal = whole.ntotal = sum(shard.ntotal for shard in opened)
        self._shards = [whole]

    def _search_shards(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Shards without clusters number their vectors from 0 each: search each, keep the k best of all."""
        start, similarities, ids = 0, [], []
        for shard in self._shards:
            similarity, local = shard.search(queries, k)
            similarities.append(similarity)
            ids.append(np.where(local < 0, -1, local + start))
            start += shard.ntotal
        similarity, found = np.concatenate(similarities, axis=1), np.concatenate(ids, axis=1)
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(similarity, best, axis=1), np.take_along_axis(found, best, axis=1)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:04d}.faiss"


def rotations_of(index: Any) -> list[Any]:
    """What a Faiss index does to vectors before all else: the rotation of OPQ, or nothing."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]


def codes_of(index: Any) -> Any:
    """The part of a Faiss index that comes after the rotation."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _read(path: Path) -> Any:
    """A Faiss index whose vectors stay on disk until a search needs them."""
    faiss = load_faiss()
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def nearest_of(keys: NDArray[np.int64], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of keys (n, S >= k): distances and ids (n, k), as a search returns them.

    A key is the similarity + 2 in STEPS, and below it, in ID_BITS, LAST_ID less the id; 0 for none.
    """
    keys = np.sort(keys, axis=1)[:, ::-1][:, :k]
    distances = np.where(keys == 0, np.inf, 3 - (keys >> ID_BITS) / STEPS)
    return distances.astype(np.float32), np.where(keys == 0, -1, LAST_ID - (keys & LAST_ID))
