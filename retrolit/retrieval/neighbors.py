"""Neighbor tables: for every chunk of a split's token stream, the ids of its neighbors in the database.

    neighbors/<corpus>-<split>-<key>/ids.bin          (chunks, num_saved) int32 or int64, the nearest first, -1 for none
    neighbors/<corpus>-<split>-<key>/distances.bin    (chunks, num_saved) float16
    neighbors/<corpus>-<split>-<key>/manifest.json    settings, inputs, and counts of all that was dropped

Position p of the stream is in stream chunk p // M, whatever sample it is read in, so that one table serves every seed,
batch size and sequence length. What is dropped is told by document, never by rank:

    own       chunks of the documents that overlap the query chunk: its own text, and what follows it
    copies    chunks of documents with the same tokens as one of those
    near      chunks that hold more than a share of the n-grams of the query or of the chunk after it, if asked for

Legend: n chunks, M tokens a chunk, S neighbors searched.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retrolit.retrieval.chunks import ChunkDatabase
from retrolit.retrieval.embedder import Embedder
from retrolit.retrieval.near_duplicates import shared_ngrams
from retrolit.retrieval.search_many import search_many
from retrolit.retrieval.stream_chunks import OwnDocuments, StreamChunks
from retrolit.storage import Manifest, atomic_folder, set_aside_damaged
from retrolit.storage.blocks import EVERYTHING, Share, block_path, read_block, run_blocks
from retrolit.tokens.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from retrolit.retrieval.index import Index
    from retrolit.tokens import TokenStore

KIND = "neighbors"
BLOCK_CHUNKS = 65_536
"""Chunks that are searched at a time, and again after an interruption: enough that hundreds look into each list."""
FILTER_CHUNKS = 4_096  # of these, as many are embedded and filtered at a time

COUNTS = ("found", "own", "copies", "near_duplicates", "kept", "chunks_with_too_few")
"""What a manifest counts: neighbors found, dropped for three reasons, kept, and chunks that lack some of num_saved."""


@dataclass
class NeighborConfig:
    """Which neighbors are saved."""

    num_saved: int = 20
    """Neighbors kept for each chunk."""

    num_searched: int = 200
    """Neighbors looked at to find them."""

    exclude_copies: bool = True
    """Also drops chunks of documents that are exact copies of the query's."""

    near_duplicate_share: float | None = None
    """Also drops neighbors that hold more than this share of the n-grams of the query or of the chunk after it."""

    near_duplicate_ngram: int = 8
    """Tokens of an n-gram."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_saved <= self.num_searched:
            raise ValueError(
                f"NeighborConfig.num_saved: expected 1 to num_searched = {self.num_searched}, got {self.num_saved}"
            )
        if self.near_duplicate_share is not None and not 0 <= self.near_duplicate_share < 1:
            raise ValueError(
                f"NeighborConfig.near_duplicate_share: expected 0 up to 1, got {self.near_duplicate_share}"
            )
        if self.near_duplicate_ngram < 1:
            raise ValueError(
                f"NeighborConfig.near_duplicate_ngram: expected at least 1, got {self.near_duplicate_ngram}"
            )


class NeighborTable:
    """The saved neighbors of every chunk of one store's stream; `table[chunks]` -> ids (n, num_saved) int64.

    Raises:
        FileNotFoundError, ValueError: the folder holds no table, or files that are not those its manifest lists.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(folder, KIND)
        self.manifest.verify(folder)
        self.num_saved: int = self.manifest.settings["num_saved"]
        self.chunk_length: int = self.manifest.settings["chunk_length"]
        shape = (self.manifest.sizes["chunks"], self.num_saved)
        self._ids = _map(self.folder / "ids.bin", np.dtype(self.manifest.sizes["dtype"]), shape)
        self._distances = _map(self.folder / "distances.bin", np.dtype(np.float16), shape)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, chunks: ArrayLike) -> NDArray[np.int64]:
        """Ids (..., num_saved) of these stream chunks, the nearest first, -1 where there are no more."""
        return self._ids[np.asarray(chunks)].astype(np.int64)

    def distances(self, chunks: ArrayLike) -> NDArray[np.float32]:
        """Distances (..., num_saved), infinite where there is no neighbor."""
        return self._distances[np.asarray(chunks)].astype(np.float32)

    def check(self, store: TokenStore, database: ChunkDatabase) -> None:
        """Refuses a store or a database other than those the table was made for.

        Raises:
            ValueError: names what differs, and how to make the table again.
        """
        settings, inputs = self.manifest.settings, self.manifest.inputs
        for name, expected, got in (
            ("chunk_length", settings["chunk_length"], database.chunk_length),
            ("database", inputs["database"], database.fingerprint),
            ("store", inputs["store"], store.fingerprint),
        ):
            if expected != got:
                raise ValueError(
                    f"{self.folder}: {name}: the neighbors were made with {_short(expected)}, this run asks for "
                    f"{_short(got)}; make them again with: retrolit prepare -c data.yaml"
                )


def keep_first(drop: NDArray[np.bool_], k: int, *values: NDArray) -> tuple[NDArray, ...]:
    """The first k of each row that are not dropped, in their order, arrays (..., S) -> (..., k); filled with row ends.

    The dropped follow the kept, so that a row with fewer than k kept ends in values that the caller has to mask.
    """
    order = np.argsort(drop, axis=-1, kind="stable")[..., :k]
    return tuple(np.take_along_axis(value, order, axis=-1) for value in values)


def neighbor_settings(config: NeighborConfig, chunk_length: int) -> dict[str, Any]:
    """What decides which neighbors are saved, besides the inputs."""
    return {**asdict(config), "chunk_length": chunk_length}


class OtherChunks(Protocol):
    """Chunks that neighbors can be looked up for in place of the stream's, which are StreamChunks."""

    cut: str
    """What they are cut from, for the manifest."""

    def __len__(self) -> int: ...

    def tokens(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (n, M) int64 of chunks start to end, and how many each has (n,)."""
        ...

    def documents(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first and the last document of the store that each of these chunks overlaps: (n,) and (n,)."""
        ...


def build_neighbors(
    store: TokenStore,
    database: ChunkDatabase,
    index: Index,
    embedder: Embedder,
    *,
    config: NeighborConfig,
    folder: str | Path,
    progress: Progress = silent,
    share: Share = EVERYTHING,
    chunks: OtherChunks | None = None,
) -> NeighborTable | None:
    """Makes the table of `store`'s stream in `folder`, or opens the one that is there; a damaged one is set aside.

    `chunks` are other chunks than the stream's to make it of. `share` is this machine's: all but rank 0 do their blocks
    and get None. Raises OSError when the disk is full; what is finished is kept.
    """
    folder = Path(folder)
    set_aside_damaged(folder, KIND)
    if folder.exists():
        return NeighborTable(folder)
    work = folder.with_name(f".{folder.name}-{BLOCK_CHUNKS}.work")  # blocks of another size belong to another version
    search = _SearchBlock(store, database, index, embedder, config, chunks)
    total, count = len(search.chunks), 0
    for part in dict.fromkeys((share, EVERYTHING) if share.rank == 0 else (share,)):
        with progress(f"searching neighbors of {total:,} chunks", total, "chunks") as advance:

            def work_block(bounds: tuple[int, int]) -> dict[str, NDArray]:
                block = search(*bounds)
                advance(bounds[1])
                return block

            starts = range(0, total, BLOCK_CHUNKS)
            tasks = [(s, min(s + BLOCK_CHUNKS, total)) for s in starts]
            count = run_blocks(work, tasks, work_block, share=part, until=folder)
    if share.rank != 0:
        return None
    inputs = {
        "store": store.fingerprint,
        "database": database.fingerprint,
        "index": index.fingerprint,
        "embedder": embedder.fingerprint,
    }
    dtype = np.dtype("<i4" if len(database) < 2**31 else "<i8")
    settings = neighbor_settings(config, database.chunk_length) | ({} if chunks is None else {"cut": chunks.cut})
    _join(folder, work, count, settings=settings, inputs=inputs, dtype=dtype)
    return NeighborTable(folder)


class _SearchBlock:
    """The neighbors of consecutive stream chunks."""

    def __init__(
        self,
        store: TokenStore,
        database: ChunkDatabase,
        index: Index,
        embedder: Embedder,
        config: NeighborConfig,
        chunks: OtherChunks | None,
    ) -> None:
        self.chunks = StreamChunks(store, database.chunk_length) if chunks is None else chunks
        self._database, self._index, self._embedder, self._config = database, index, embedder, config
        self._own_documents = OwnDocuments(store, database, config.exclude_copies)

    def __call__(self, start: int, end: int) -> dict[str, NDArray]:
        """`ids` and `distances` (n, num_saved) of chunks start to end, and `counts` in the order of COUNTS."""
        bounds = [(first, min(first + FILTER_CHUNKS, end)) for first in range(start, end, FILTER_CHUNKS)]
        queries = np.concatenate([self._embedder.embed(*self.chunks.tokens(*part)) for part in bounds])  # (n, d)
        distances, ids = search_many(self._index, queries, self._config.num_searched)  # (n, S)
        parts = []
        for first, last in bounds:
            rows = slice(first - start, last - start)
            parts.append(self._filter(first, last, queries[rows], distances[rows], ids[rows]))
        ids, distances, counts = zip(*parts, strict=True)
        return {"ids": np.concatenate(ids), "distances": np.concatenate(distances), "counts": np.sum(counts, axis=0)}

    def _filter(
        self, start: int, end: int, queries: NDArray[np.float32], distances: NDArray, ids: NDArray
    ) -> tuple[NDArray, NDArray, NDArray]:
        """What is saved of `distances` and `ids` (n, S), found for chunks start to end, and what was counted."""
        nothing = (ids < 0) | ~queries.any(axis=1, keepdims=True)  # a chunk without a word resembles none
        document = self._database.documents(np.maximum(ids, 0))  # (n, S)
        own, copies = self._own_documents.among(*self.chunks.documents(start, end), document)
        own, copies = own & ~nothing, copies & ~nothing
        drop = nothing | own | copies
        near = self._near_duplicates(start, end, ids, drop)
        ids, distances, dropped = keep_first(drop | near, self._config.num_saved, ids, distances, drop | near)
        ids = np.where(dropped, -1, ids)
        distances = np.where(dropped, np.inf, distances).astype(np.float16)
        counts = [(~nothing).sum(), own.sum(), copies.sum(), near.sum(), (~dropped).sum(), dropped.any(axis=1).sum()]
        return ids, distances, np.array(counts, dtype=np.int64)

    def _near_duplicates(
        self, start: int, end: int, ids: NDArray[np.int64], drop: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which neighbors (n, S) are near duplicates; only as many are looked at as are needed to fill a row."""
        near = np.zeros_like(drop)
        threshold = self._config.near_duplicate_share
        if threshold is None:
            return near
        follows = min(end + 1, len(self.chunks))
        tokens, lengths = self.chunks.tokens(start, follows)
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        kept = np.zeros(end - start, dtype=np.int64)
        for rank in range(ids.shape[1]):
            rows = np.flatnonzero(~drop[:, rank] & (kept < self._config.num_saved))
            if not len(rows):
                continue
            neighbor, neighbor_mask = self._database.neighbor_tokens(ids[rows, rank])
            for texts in (rows, np.minimum(rows + 1, len(tokens) - 1)):  # the query, and the chunk after it
                share = shared_ngrams(
                    tokens[texts], mask[texts], neighbor, neighbor_mask, self._config.near_duplicate_ngram
                )
                near[rows, rank] |= share > threshold
            kept[rows] += ~near[rows, rank]
        return near


def _join(folder: Path, work: Path, blocks: int, *, settings: dict, inputs: dict[str, str], dtype: np.dtype) -> None:
    """Writes the finished folder from the blocks, and removes them."""
    counts = np.zeros(len(COUNTS), dtype=np.int64)
    with atomic_folder(folder) as whole:
        with open(whole / "ids.bin", "wb") as ids, open(whole / "distances.bin", "wb") as distances:
            chunks = 0
            for number in range(blocks):
                block = read_block(block_path(work, number))
                chunks += len(block["ids"])
                ids.write(np.ascontiguousarray(block["ids"], dtype=dtype).data)  # tofile hides that a disk is full
                distances.write(np.ascontiguousarray(block["distances"]).data)
                counts += block["counts"]
        sizes = {"chunks": chunks, "dtype": dtype.str, **dict(zip(COUNTS, counts.tolist(), strict=True))}
        Manifest(KIND, settings, inputs, sizes, {"ids.bin": {}, "distances.bin": {}}).write(whole)
    shutil.rmtree(work, ignore_errors=True)


def _map(path: Path, dtype: np.dtype, shape: tuple[int, int]) -> NDArray:
    """A read-only memory map; of an empty file, an empty array."""
    return np.asarray(np.memmap(path, dtype, mode="r", shape=shape)) if shape[0] else np.empty(shape, dtype)


def _short(value: object) -> object:
    return value[:12] if isinstance(value, str) else value
