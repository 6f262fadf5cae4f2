"""Long jobs as numbered blocks, one file each: killed anywhere and run again, they give the same bytes.

A block is a few numpy arrays behind a checksum. What is finished is kept, what is missing or damaged is done, and
which process or which machine did a block makes no difference to it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
import os
import shutil
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from retrolit.storage.files import Damaged, atomic_write

logger = logging.getLogger(__name__)

MAGIC = b"RETROBLK"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Share:
    """The blocks of one of several machines or processes that work on the same folder: every world-th from rank."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Share:
        """The share that torchrun (RANK, WORLD_SIZE) or SLURM (SLURM_PROCID, SLURM_NTASKS) gives; else everything.

        Raises ValueError when the variables contradict each other.
        """
        for rank_name, world_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank_name in os.environ and world_name in os.environ:
                rank, world = os.environ[rank_name], os.environ[world_name]
                if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
                    raise ValueError(
                        f"{rank_name}={rank}, {world_name}={world}: expected whole numbers, the first smaller"
                    )
                return cls(int(rank), int(world))
        return cls()

    def has(self, number: int) -> bool:
        return number % self.world == self.rank

    def wait_for(self, path: Path) -> None:
        """Returns when rank 0 has finished what appears at `path`. (torchrun and srun end who waits for a dead one.)"""
        while self.rank != 0 and not path.exists():
            time.sleep(0.2)


EVERYTHING = Share()


def default_processes() -> int:
    """One process for each core this process may use, divided by the processes torchrun started beside it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def run_blocks(
    folder: Path,
    tasks: Iterable[Any],
    work: Callable[[Any], Arrays],
    processes: int = 1,
    share: Share = EVERYTHING,
    threads: int = 1,
    until: Path | None = None,
) -> int:
    """Does block n = `work`(task n) for the blocks of `share` that `folder` lacks; returns the number of tasks.

    `tasks` may be a stream, it is read once, in order, and no more than a few tasks ahead. With several processes
    (started fresh, never forked) `work` and the tasks must pickle; a single missing block is done right here. Several
    threads are for work that leaves Python's lock free most of the time, as numpy's does; writing then goes on beside
    it. `until` is what another machine makes of all blocks: where it appears, this one stops, and leaves no blocks.
    Raises what `work` or the stream raises, and OSError when a process died; finished blocks stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def missing() -> Iterator[tuple[Path, Any]]:
        nonlocal count
        for task in tasks:
            if until is not None and until.exists():
                return
            path = block_path(folder, count)
            if share.has(count) and not is_whole(path):
                yield path, task
            count += 1

    todo = missing()
    first = list(islice(todo, 2))
    try:
        if len(first) < 2 or processes == threads == 1:
            for path, task in chain(first, todo):
                write_block(path, work(task))
        elif processes > 1:
            _run_in_processes(chain(first, todo), work, processes)
        else:
            pool = ThreadPoolExecutor(threads)
            _run_in(pool, chain(first, todo), lambda path, task: write_block(path, work(task)), threads)
    except FileNotFoundError:  # the other machine has tidied up while a block was written
        if until is None or not until.exists():
            raise
    if until is not None and until.exists():
        shutil.rmtree(folder, ignore_errors=True)
    return count


def block_path(folder: Path, number: int) -> Path:
    """The file of a block."""
    return folder / f"{number:08d}.block"


def write_block(path: Path, arrays: Arrays) -> None:
    """Writes the arrays with their checksum, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    with atomic_write(path) as file:
        file.write(MAGIC + hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())


def read_block(path: Path) -> Arrays:
    """The arrays of a block. Raises Damaged when it is, FileNotFoundError when it is not there."""
    content = memoryview(path.read_bytes())
    start = len(MAGIC) + hashlib.sha256().digest_size
    if content[:start] != MAGIC + hashlib.sha256(content[start:]).digest():
        raise Damaged(
            f"{path}: the block is damaged (its checksum differs); run retrolit prepare again, it makes the block anew"
        )
    with np.load(io.BytesIO(content[start:]), allow_pickle=False) as arrays:
        return dict(arrays)


def map_block(path: Path) -> Arrays:
    """The arrays of a block that was checked before, memory-mapped: for a few rows of many blocks."""
    arrays = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            file.seek(name_length + extra_length, os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            assert version == (1, 0), version
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            arrays[entry.filename.removesuffix(".npy")] = np.memmap(
                path, dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C"
            )
    return arrays


def is_whole(path: Path) -> bool:
    """Whether a block is there and undamaged; a damaged one is named in a warning."""
    try:
        read_block(path)
    except FileNotFoundError:
        return False
    except Damaged:
        logger.warning("%s is damaged; doing this block again", path)
        return False
    return True


def _run_in_processes(todo: Iterable[tuple[Path, Any]], work: Callable[[Any], Arrays], processes: int) -> None:
    fresh = multiprocessing.get_context("spawn")  # a fork after threads have started may hang
    pool = ProcessPoolExecutor(processes, mp_context=fresh, initializer=_start_worker, initargs=(work,))
    try:
        _run_in(pool, todo, _do_block, processes)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process died, perhaps for lack of memory (or, started from a script, for want of its "
            "if __name__ == '__main__'); finished blocks are kept: run the same command again, with fewer processes"
        ) from error


def _run_in(pool: Executor, todo: Iterable[tuple[Path, Any]], do: Callable[[Path, Any], None], workers: int) -> None:
    """do(path, task) for all, in the pool, which ends with it."""
    pending: set[Future[None]] = set()
    try:
        for path, task in todo:
            pending.add(pool.submit(do, path, task))
            if len(pending) > workers + 1:
                pending = _collect(pending)
        while pending:
            pending = _collect(pending)
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(pending: set[Future[None]]) -> set[Future[None]]:
    done, rest = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        if (error := future.exception()) is not None:
            raise error
    return rest


_work: Callable[[Any], Arrays]


def _start_worker(work: Callable[[Any], Arrays]) -> None:
    global _work  # noqa: PLW0603  (a worker process has one job, handed over once instead of with every task)
    _work = work
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A parent that is killed cannot end its workers; so each watches its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do_block(path: Path, task: Any) -> None:
    write_block(path, _work(task))
