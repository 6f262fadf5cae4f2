"""The vectors of a whole chunk database on disk, made block by block.

    <folder>/00000000.block ...    vectors of consecutive chunks in float16, with the checksum of the chunks they are of
    <folder>/manifest.json         written last: with it the folder is finished

Blocks are cut at multiples of `block_chunks` within each store. A store that is added, or that grew at its end, so
leaves the blocks before it as they were, and a new database takes them over from the folder of the old one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from retrolit.retrieval.chunks import ChunkDatabase
from retrolit.retrieval.embedder import Embedder
from retrolit.storage import Damaged, Manifest, atomic_write, lock, sha256_file
from retrolit.storage.blocks import (
    EVERYTHING,
    Share,
    block_path,
    is_whole,
    map_block,
    read_block,
    run_blocks,
    write_block,
)
from retrolit.storage.manifest import FILE_NAME as MANIFEST
from retrolit.tokens.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from retrolit.storage.blocks import Arrays

logger = logging.getLogger(__name__)

KIND = "embeddings"
BLOCK_CHUNKS = 8_192
"""Chunks a block: minutes of work for an encoder on a processor, a tenth of a second for the lexical embedder."""


class Span(NamedTuple):
    """The chunks of a block: ids from start up to stop."""

    start: int
    stop: int


class Embeddings:
    """Finished vectors of `len(embeddings)` chunks, read only when asked for.

    Args:
        folder: where they are.
        make: the work that makes a block, to do one again that is damaged; without it a damaged block is refused.

    Raises:
        FileNotFoundError: the folder is not there or not finished.
        ValueError: files are missing or have another size.
    """

    def __init__(self, folder: str | Path, make: Callable[[Span], Arrays] | None = None) -> None:
        self.folder = Path(folder)
        self._make = make
        self.manifest = Manifest.read(folder, KIND)
        self.manifest.verify(folder)
        self.dimension: int = self.manifest.settings["dimension"]
        self._bounds = np.array(self.manifest.sizes["bounds"], dtype=np.int64)  # (blocks + 1,)
        self._maps: dict[int, NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def fingerprint(self) -> str:
        """Changes with the database, the embedder and any vector."""
        return self.manifest.fingerprint

    def rows(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Vectors (n, dimension) of chunks in any order, from memory-mapped blocks, each checked before its first use.

        Raises:
            ValueError: there are no such chunks.
            Damaged: a block is and cannot be done again, or is other than it was when it is.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(
                f"{self.folder}: expected chunk ids from 0 to {len(self) - 1}, got {ids.min()} to {ids.max()}"
            )
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        block = np.searchsorted(self._bounds, ids, side="right") - 1
        for number in np.unique(block).tolist():
            wanted = block == number
            if number not in self._maps:
                self._check(number)
                self._maps[number] = map_block(block_path(self.folder, number))["vectors"]
            vectors[wanted] = self._maps[number][ids[wanted] - self._bounds[number]]
        return vectors

    def _check(self, number: int) -> None:
        """Does a block again if it is damaged. Several processes may do so at once: they write the same bytes."""
        path = block_path(self.folder, number)
        if self._make is None:
            read_block(path)
        elif not is_whole(path):
            _make_again(path, Span(*self._bounds[number : number + 2].tolist()), self._make, self.manifest)


def embed_database(
    database: ChunkDatabase,
    embedder: Embedder,
    folder: str | Path,
    *,
    reuse: Sequence[str | Path] = (),
    block_chunks: int = BLOCK_CHUNKS,
    progress: Progress = silent,
    share: Share = EVERYTHING,
) -> Embeddings | None:
    """Embeds what `folder` lacks and opens it; killed and called again, it goes on where it was.

    In a finished folder a damaged block is done again: a missing one, or one of another size, at once, any other when
    its vectors are first read. Blocks that a folder of `reuse` has of the same chunks and the same embedder are taken
    from there. With several machines (`share`), nobody waits: rank 0 does its blocks, then what the others have left,
    and finishes; the others do theirs and get None.
    """
    folder = Path(folder)
    settings = {"dimension": embedder.dimension, "block_chunks": block_chunks}
    inputs = {"chunks": database.fingerprint, "embedder": embedder.fingerprint}
    spans = list(_spans(database, block_chunks))
    work = EmbedBlock(database, embedder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        finished = _finished(folder, settings | inputs, spans, work)
        if finished is not None:
            return finished
    if share.rank == 0:
        _take_over(folder, spans, work, reuse)
    for part in dict.fromkeys((share, EVERYTHING) if share.rank == 0 else (share,)):
        with progress(f"embedding {len(database):,} chunks", len(database), "chunks") as advance:

            def tasks() -> Iterator[Span]:
                for span in spans:
                    advance(span.start)
                    yield span

            run_blocks(folder, tasks(), work, share=part, threads=embedder.threads)
    if share.rank != 0:
        return None
    contents = [map_block(block_path(folder, number))["content"].tobytes().hex() for number in range(len(spans))]
    bounds = [0, *(span.stop for span in spans)]
    sizes = {"chunks": len(database), "bounds": bounds, "contents": contents}
    files = {block_path(folder, number).name: {} for number in range(len(spans))}
    Manifest(KIND, settings, inputs, sizes, files).write(folder)
    return Embeddings(folder, work)


def _finished(folder: Path, made_with: dict[str, Any], spans: list[Span], work: EmbedBlock) -> Embeddings | None:
    """Opens a finished folder, its missing and cut blocks done again; None where it has to be finished anew.

    Raises ValueError where it was made with other settings or of other inputs.
    """
    with suppress(Damaged):
        manifest = Manifest.read(folder, KIND)
        for name, expected in made_with.items():
            got = (manifest.settings | manifest.inputs)[name]
            if got != expected:
                raise ValueError(f"{folder}: {name}: this run asks for {expected}, the folder was made with {got}")
        return Embeddings(folder, work)
    with lock(folder.with_name(f".{folder.name}.lock")):  # one process mends, the others then find all whole
        try:
            manifest = Manifest.read(folder, KIND)
            for number, span in enumerate(spans):
                path = block_path(folder, number)
                if not path.is_file() or path.stat().st_size != manifest.files[path.name]["bytes"]:
                    logger.warning("%s is missing or has another size than was written; doing this block again", path)
                    _make_again(path, span, work, manifest)
            return Embeddings(folder, work)
        except FileNotFoundError:  # another process has found it damaged
            return None
        except Damaged as error:
            logger.warning("damaged: %s", error)
            (folder / MANIFEST).unlink(missing_ok=True)
            return None


def _make_again(path: Path, span: Span, make: Callable[[Span], Arrays], manifest: Manifest) -> None:
    """Writes a damaged block anew.

    Raises Damaged, and takes the manifest away, where its bytes are not those that were there: then all that was made
    of the vectors has to be made again.
    """
    write_block(path, make(span))
    if sha256_file(path) != manifest.files[path.name]["sha256"]:
        (path.parent / MANIFEST).unlink(missing_ok=True)
        raise Damaged(
            f"{path}: the block was damaged, and done again it is not what it was (on another processor or GPU?), so "
            f"index and neighbors have to be made anew: run retrolit prepare again"
        )


class EmbedBlock:
    """The work that makes a block: its vectors, and `content`, which names the chunks and the embedder."""

    def __init__(self, database: ChunkDatabase, embedder: Embedder) -> None:
        self.database, self.embedder = database, embedder

    def __call__(self, span: Span) -> Arrays:
        vectors = self.embedder.embed(*self.database.tokens(np.arange(*span)))
        halves = torch.from_numpy(vectors).half().numpy()  # three times faster than numpy's
        return {"vectors": halves, "content": np.frombuffer(self.content(span), dtype=np.uint8)}

    def content(self, span: Span) -> bytes:
        return hashlib.sha256(self.embedder.fingerprint.encode() + self.database.checksum(*span)).digest()


def _spans(database: ChunkDatabase, block_chunks: int) -> Iterator[Span]:
    for first, end in zip(database.store_bounds[:-1].tolist(), database.store_bounds[1:].tolist(), strict=True):
        for start in range(first, end, block_chunks):
            yield Span(start, min(start + block_chunks, end))


def _take_over(folder: Path, spans: list[Span], work: EmbedBlock, reuse: Sequence[str | Path]) -> None:
    """Links blocks of other folders into `folder`, or copies them where the file system has no links."""
    known: dict[str, Path] = {}
    for other in reuse:
        try:
            manifest = Manifest.read(other, KIND)
        except Damaged as error:
            logger.warning("damaged: %s; its blocks are not used", error)
            continue
        if manifest.inputs["embedder"] == work.embedder.fingerprint:
            known |= {key: block_path(Path(other), number) for number, key in enumerate(manifest.sizes["contents"])}
    if not known:
        return
    for number, span in enumerate(spans):
        target = block_path(folder, number)
        source = known.get(work.content(span).hex())
        if source is None or target.exists():
            continue
        try:
            os.link(source, target)
        except OSError:
            with open(source, "rb") as old, atomic_write(target) as new:
                shutil.copyfileobj(old, new)
