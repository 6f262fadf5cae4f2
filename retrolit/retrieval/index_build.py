"""Building an index: train on a random sample, encode in blocks, join into shards, measure.

Encoding is nearly all of the work, and its blocks are shared by all machines that run the same command. Killed anywhere
and run again, the files come out the same; vectors added later are encoded with the old clusters and codes, and make
shards of their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrolit.retrieval.card import choose_nprobe, find_truth, make_card
from retrolit.retrieval.index import KIND, TRAINED, Index, codes_of, load_faiss, rotations_of, shard_name
from retrolit.retrieval.index_plan import KMEANS_ITERATIONS, IndexConfig, IndexPlan, choose_index
from retrolit.retrieval.vectors import BLOCK, Nearest, Vectors, kmeans, sample
from retrolit.storage import Manifest, atomic_write, lock
from retrolit.storage.blocks import EVERYTHING, Share, block_path, read_block, run_blocks
from retrolit.tokens.progress import Advance, Progress, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARD_BYTES = 4 * 2**30


def index_settings(plan: IndexPlan, config: IndexConfig) -> dict[str, Any]:
    """What decides the bytes of an index, besides its vectors."""
    return {
        "factory": plan.factory,
        "training_vectors": plan.training_vectors,
        "seed": config.seed,
        "nprobe": config.nprobe,
        "ef_search": config.ef_search,
        "target_recall": config.target_recall,
        "max_nprobe": config.max_nprobe,
        "card_queries": config.card_queries,
    }


def build_index(
    vectors: Vectors,
    config: IndexConfig,
    folder: str | Path,
    *,
    queries: NDArray[np.float32] | None = None,
    extends: Index | None = None,
    progress: Progress = silent,
    share: Share = EVERYTHING,
) -> Index | None:
    """Makes the index of all `vectors` in `folder`, or opens the one that is there.

    Args:
        vectors: rows of length 1, or 0 for a chunk in which the embedder saw nothing.
        config: how; `choose_index` says what that comes to.
        folder: appears when all is done; unfinished work lies beside it.
        queries: (q, d) held-out vectors to measure recall with; without them, vectors of the index itself that may not
            find themselves.
        extends: an index of the first vectors; its clusters and codes are kept, its shards are linked.
        share: this machine's; all but rank 0 do their blocks and get None.

    Raises:
        ValueError: there are no vectors.
        OSError: the disk is full; what is finished is kept.
    """
    folder = Path(folder)
    if folder.exists():
        return Index(folder)
    if not len(vectors):
        raise ValueError("build_index: expected at least one vector, got none; are there any train documents?")
    work = folder.with_name(f".{folder.name}.work")
    plan = choose_index(len(vectors), vectors.dimension, config)
    start = len(extends) if extends is not None else 0
    with lock(folder.parent / ".index.lock"):  # the first to come trains, the others wait
        if folder.exists():  # the others have finished it meanwhile
            return Index(folder)
        if not (work / TRAINED).exists():
            _make_trained(vectors, plan, config.seed, work / TRAINED, extends, progress)
        trained = load_faiss().read_index(str(work / TRAINED))
    with progress("encoding vectors", len(vectors) - start, "vectors") as advance:
        blocks = _encode(vectors, start, trained, work, share, folder, advance)
        if share.rank != 0:
            if folder.exists():
                shutil.rmtree(work, ignore_errors=True)
            return None
        if share.world > 1:
            _encode(vectors, start, trained, work, EVERYTHING, folder, advance)
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)  # what a killed run left
    whole.mkdir()
    with progress("joining the index", None):
        shards = _join(work, blocks, whole, extends)
    with progress("measuring the index", None):
        _measure(Index.unfinished(whole, shards), vectors, plan, config, queries)
    with lock(folder.parent / ".index.lock"):
        os.rename(whole, folder)
        shutil.rmtree(work, ignore_errors=True)  # where another machine still writes a block, it removes the rest
    return Index(folder)


def _make_trained(
    vectors: Vectors, plan: IndexPlan, seed: int, path: Path, extends: Index | None, progress: Progress
) -> None:
    """Writes an empty index, trained, or links that of the index to extend."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if extends is not None:
        _link(extends.folder / TRAINED, path)
        return
    stage = f"training {plan.factory} on {plan.training_vectors:,} vectors"
    with progress(stage, None) if plan.training_vectors else nullcontext():
        _write(_train(vectors, plan, seed), path)


def _train(vectors: Vectors, plan: IndexPlan, seed: int) -> Any:
    """An empty Faiss index, trained."""
    faiss = load_faiss()
    index = faiss.index_factory(vectors.dimension, plan.factory, faiss.METRIC_INNER_PRODUCT)
    if not plan.training_vectors:
        return index
    points = sample(vectors, plan.training_vectors, seed)
    for rotation in rotations_of(index):
        rotation.train(points)
        points = rotation.apply(points)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # a graph's edges depend on the order in which its nodes come
        faiss.downcast_index(lists.quantizer).add(kmeans(points, lists.nlist, KMEANS_ITERATIONS, seed))
        faiss.omp_set_num_threads(threads)
    codes_of(index).train(points)
    index.is_trained = True
    return index


def _encode(
    vectors: Vectors, start: int, index: Any, work: Path, share: Share, folder: Path, advance: Advance
) -> list[tuple[int, int]]:
    """Writes the codes of all vectors from `start` on into blocks of work/codes; returns the blocks' bounds."""
    faiss = load_faiss()
    cluster_of = _clusters(index)

    def encode(bounds: tuple[int, int]) -> dict[str, np.ndarray]:
        rows = np.ascontiguousarray(vectors.rows(np.arange(*bounds)), dtype=np.float32)
        for rotation in rotations_of(index):
            rows = rotation.apply(rows)
        if cluster_of is None:
            codes = codes_of(index).sa_encode(rows)
        else:
            lists = faiss.extract_index_ivf(index)
            arrays = rows, cluster_of(rows), np.empty((len(rows), lists.sa_code_size()), dtype=np.uint8)
            lists.encode_vectors(len(rows), *map(faiss.swig_ptr, arrays), True)
            codes = arrays[-1]
        advance(bounds[1] - start)
        return {"codes": codes}

    bounds = [(first, min(first + BLOCK, len(vectors))) for first in range(start, len(vectors), BLOCK)]
    run_blocks(work / "codes", bounds, encode, share=share, until=folder)
    return bounds


def _clusters(index: Any) -> Callable[[NDArray[np.float32]], NDArray[np.int64]] | None:
    """The function from vectors (n, d) to the clusters (n,) they belong to; None for an index without clusters."""
    faiss = load_faiss()
    lists = faiss.try_extract_index_ivf(index)
    if lists is None:
        return None
    quantizer = faiss.downcast_index(lists.quantizer)
    if isinstance(quantizer, faiss.IndexFlat):
        nearest = Nearest(quantizer.reconstruct_n(0, quantizer.ntotal))
        return lambda rows: nearest(rows)[1].numpy()
    return lambda rows: quantizer.assign(rows, 1).reshape(-1)


def _join(work: Path, blocks: list[tuple[int, int]], folder: Path, extends: Index | None) -> int:
    """Writes the shards; returns how many there are."""
    faiss = load_faiss()
    trained, shards = work / TRAINED, 0
    _link(trained, folder / TRAINED)
    if extends is not None:
        shards = extends.manifest.sizes["shards"]
        for number in range(shards):
            _link(extends.folder / shard_name(number), folder / shard_name(number))
    shard, size = faiss.read_index(str(trained)), 0
    for number, (first, end) in enumerate(blocks):
        block = read_block(block_path(work / "codes", number))["codes"]
        target = codes_of(shard)
        target.add_sa_codes(block, np.arange(first, end))
        shard.ntotal = target.ntotal
        size += block.nbytes
        if size > SHARD_BYTES or end == blocks[-1][1]:
            _write(shard, folder / shard_name(shards))
            shard, size, shards = faiss.read_index(str(trained)), 0, shards + 1
    return shards


def _measure(
    index: Index,
    vectors: Vectors,
    plan: IndexPlan,
    config: IndexConfig,
    queries: NDArray[np.float32] | None,
) -> None:
    """Chooses nprobe where the configuration does not, and writes the card and the manifest."""
    truth = find_truth(vectors, queries, config.card_queries, config.seed) if config.card_queries else None
    nprobe = None
    if plan.clusters:
        nprobe = config.nprobe or choose_nprobe(index, vectors, truth, plan.clusters, config)
        nprobe = min(nprobe, plan.clusters)
        index.set_search(nprobe, config.ef_search)
    search = {"nprobe": nprobe, "ef_search": config.ef_search}
    names = sorted(path.name for path in index.folder.glob("*.faiss"))
    sizes = {"vectors": len(vectors), "dimension": vectors.dimension, "shards": len(names) - 1}
    settings = {**index_settings(plan, config), "search": search, "reason": plan.reason}
    make_card(index, vectors, truth, plan, settings).write(index.folder)
    Manifest(KIND, settings, {"vectors": vectors.fingerprint}, sizes, {name: {} for name in names}).write(index.folder)


def _write(index: Any, path: Path) -> None:
    faiss = load_faiss()
    with atomic_write(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
