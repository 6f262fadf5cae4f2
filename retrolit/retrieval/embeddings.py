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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from retrolit.retrieval.chunks import ChunkDatabase
from retrolit.retrieval.embedder import Embedder
from retrolit.storage import Manifest, atomic_write
from retrolit.storage.blocks import EVERYTHING, Share, block_path, map_block, read_block, run_blocks
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

    Raises:
        FileNotFoundError: the folder is not there or not finished.
        ValueError: files are missing or have another size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(folder, KIND)
        self.manifest.verify(folder)
        self.dimension: int = self.manifest.settings["dimension"]
        self._bounds = np.array(self.manifest.sizes["bounds"], dtype=np.int64)  # (blocks + 1,)
        self._maps: dict[int, NDArray[np.float16]] = {}
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def fingerprint(self) -> str:
        """Changes with the database, the embedder and any vector."""
        return self.manifest.fingerprint

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(id of the first chunk, vectors (n, dimension) float32) for one block after the other.

        Raises:
            ValueError: a block is damaged.
        """
        for number, start in enumerate(self._bounds[:-1]):
            yield int(start), read_block(block_path(self.folder, number))["vectors"].astype(np.float32)

    def rows(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Vectors (n, dimension) of chunks in any order, from memory-mapped blocks.

        Consecutive ones are read to make something of them that stays, so that their blocks are checked, once each.

        Raises:
            ValueError: there are no such chunks, or a block of consecutive ones is damaged.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(
                f"{self.folder}: expected chunk ids from 0 to {len(self) - 1}, got {ids.min()} to {ids.max()}"
            )
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        block = np.searchsorted(self._bounds, ids, side="right") - 1
        consecutive = len(ids) > 1 and ids[-1] - ids[0] == len(ids) - 1
        for number in np.unique(block).tolist():
            wanted = block == number
            if consecutive and number not in self._checked:
                read_block(block_path(self.folder, number))
                self._checked.add(number)
            if number not in self._maps:
                self._maps[number] = map_block(block_path(self.folder, number))["vectors"]
            vectors[wanted] = self._maps[number][ids[wanted] - self._bounds[number]]
        return vectors


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

    Of a finished folder that lacks a block, or has one of another size, every block is checked, and done again where it
    is damaged. Blocks that a folder of `reuse` has of the same chunks and the same embedder are taken from there. With
    several machines (`share`), nobody waits: rank 0 does its blocks, then what the others have left, and finishes; the
    others do theirs and get None.
    """
    folder = Path(folder)
    settings = {"dimension": embedder.dimension, "block_chunks": block_chunks}
    inputs = {"chunks": database.fingerprint, "embedder": embedder.fingerprint}
    if (folder / "manifest.json").exists():
        manifest = Manifest.read(folder, KIND)
        for name, expected in (settings | inputs).items():
            got = (manifest.settings | manifest.inputs)[name]
            if got != expected:
                raise ValueError(f"{folder}: {name}: this run asks for {expected}, the folder was made with {got}")
        if _is_complete(folder, manifest):
            return Embeddings(folder)
        if share.rank == 0:
            (folder / "manifest.json").unlink()
    spans = list(_spans(database, block_chunks))
    work = _EmbedBlock(database, embedder)
    folder.mkdir(parents=True, exist_ok=True)
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
    return Embeddings(folder)


def _is_complete(folder: Path, manifest: Manifest) -> bool:
    """Whether all blocks are there in full length; if not, a warning names the first."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            logger.warning("%s is missing or has another size than was written; doing what is damaged again", path)
            return False
    return True


class _EmbedBlock:
    """Work of one block: its vectors, and `content`, which names the chunks and the embedder."""

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


def _take_over(folder: Path, spans: list[Span], work: _EmbedBlock, reuse: Sequence[str | Path]) -> None:
    """Links blocks of other folders into `folder`, or copies them where the file system has no links."""
    known: dict[str, Path] = {}
    for other in reuse:
        manifest = Manifest.read(other, KIND)
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
