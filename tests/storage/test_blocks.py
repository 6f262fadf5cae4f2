"""Blocks of a long job: whoever does them, and however often it is interrupted, the bytes are the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrolit.storage.blocks import (
    Arrays,
    Share,
    block_path,
    default_processes,
    is_whole,
    map_block,
    read_block,
    run_blocks,
    write_block,
)


def squares(task: int) -> Arrays:
    return {"n": np.arange(task) ** 2, "worker": np.array([os.getpid()])[:0]}


def refuse_seven(task: int) -> Arrays:
    if task == 7:
        raise ValueError("seven")
    return squares(task)


def die_at_seven(task: int) -> Arrays:
    if task == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(task)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """Ten blocks done by one process without interruption."""
    assert run_blocks(tmp_path / "whole", range(10), squares) == 10
    assert read_block(block_path(tmp_path / "whole", 3))["n"].tolist() == [0, 1, 4]
    return contents(tmp_path / "whole")


def test_several_processes_give_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    assert run_blocks(tmp_path / "two", range(10), squares, processes=2) == 10
    assert contents(tmp_path / "two") == whole


def test_several_threads_give_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    meet = threading.Barrier(2, timeout=20)  # passed by two blocks at once only

    def work(task: int) -> Arrays:
        meet.wait()
        return squares(task)

    assert run_blocks(tmp_path / "two", range(10), work, threads=2) == 10
    assert contents(tmp_path / "two") == whole


def test_who_comes_late_stops_where_another_has_finished_and_leaves_nothing(tmp_path: Path) -> None:
    """The first block finds the other machine at work, the second its result; in the end no block is left over."""
    done, target = [], tmp_path / "target"

    def work(task: int) -> Arrays:
        done.append(task)
        if task == 1:
            shutil.rmtree(tmp_path / "b")
            target.mkdir()
        return squares(task)

    run_blocks(tmp_path / "b", range(10), work, until=target)
    assert done == [0, 1]
    assert not (tmp_path / "b").exists()


def test_a_folder_that_vanishes_while_a_block_is_written_is_an_error_unless_all_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    replace = os.replace

    def vanish(source: Path, path: Path) -> None:
        shutil.rmtree(tmp_path / "b")
        replace(source, path)

    monkeypatch.setattr(os, "replace", vanish)
    with pytest.raises(FileNotFoundError):
        run_blocks(tmp_path / "b", range(2), squares, until=target)
    monkeypatch.setattr(os, "replace", lambda *paths: (target.mkdir(), vanish(*paths)))
    run_blocks(tmp_path / "b", range(2), squares, until=target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_shares_are_disjoint_and_complete(whole: dict[str, bytes], tmp_path: Path) -> None:
    for rank in (2, 0, 1):
        before = len(list((tmp_path / "shared").glob("*")))
        assert run_blocks(tmp_path / "shared", range(10), squares, share=Share(rank, 3)) == 10
        assert len(contents(tmp_path / "shared")) == before + len(range(rank, 10, 3))
    assert contents(tmp_path / "shared") == whole


def test_only_what_is_missing_or_damaged_is_done(
    whole: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "whole"
    block_path(folder, 2).unlink()
    block_path(folder, 4).write_bytes(whole["00000004.block"][:-1])
    block_path(folder, 5).write_bytes(b"\0" + whole["00000005.block"][1:])
    block_path(folder, 6).write_bytes(b"")
    done = []

    def work(task: int) -> Arrays:
        done.append(task)
        return squares(task)

    assert run_blocks(folder, range(10), work) == 10
    assert done == [2, 4, 5, 6]
    assert contents(folder) == whole
    assert [name in caplog.text for name in ("00000002", "00000004", "00000005", "00000006")] == [
        False,
        True,
        True,
        True,
    ]


def test_a_block_can_be_mapped_instead_of_read(tmp_path: Path) -> None:
    arrays = {"a": np.arange(12, dtype=np.float16).reshape(4, 3), "b": np.zeros(5, np.uint8), "c": np.arange(3)}
    write_block(block_path(tmp_path, 0), arrays)
    mapped = map_block(block_path(tmp_path, 0))
    assert list(mapped) == ["a", "b", "c"]
    for name, array in arrays.items():
        assert isinstance(mapped[name], np.memmap)
        assert mapped[name].dtype == array.dtype
        np.testing.assert_array_equal(mapped[name], array)


def test_a_damaged_block_is_refused_by_name(whole: dict[str, bytes], tmp_path: Path) -> None:
    path = block_path(tmp_path / "whole", 1)
    path.write_bytes(whole["00000001.block"] + b"more")
    with pytest.raises(ValueError, match=r"00000001\.block: the block is damaged"):
        read_block(path)
    assert not is_whole(path)


@pytest.mark.parametrize(("processes", "threads"), [(1, 1), (2, 1), (1, 2)])
def test_an_error_is_passed_on_and_finished_blocks_stay(processes: int, threads: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seven"):
        run_blocks(tmp_path / "b", range(10), refuse_seven, processes, threads=threads)
    assert is_whole(block_path(tmp_path / "b", 0))
    assert not block_path(tmp_path / "b", 7).exists()


def test_an_error_of_the_stream_is_passed_on(tmp_path: Path) -> None:
    def tasks() -> Iterator[int]:
        yield from range(4)
        raise ValueError("line 5 is broken")

    with pytest.raises(ValueError, match="line 5 is broken"):
        run_blocks(tmp_path / "b", tasks(), squares, processes=2)


def test_a_process_that_dies_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a worker process died"):
        run_blocks(tmp_path / "b", range(10), die_at_seven, processes=2)


def test_killed_and_run_again(whole: dict[str, bytes], tmp_path: Path) -> None:
    """kill -9 in the middle; the workers leave by themselves, and the second run completes the first."""
    program = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_blocks
from retrolit.storage.blocks import run_blocks
if __name__ == "__main__":
    run_blocks(Path({str(tmp_path / "killed")!r}), test_blocks.slowly(range(10)), test_blocks.squares, processes=2)
"""
    script = tmp_path / "script.py"
    script.write_text(program)
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not is_whole(block_path(tmp_path / "killed", 2)) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(process.pid), "workers outlived their parent"
    assert 0 < len(list((tmp_path / "killed").glob("*.block"))) < 10
    assert run_blocks(tmp_path / "killed", range(10), squares) == 10
    assert {name: data for name, data in contents(tmp_path / "killed").items() if name[0] != "."} == whole


def slowly(tasks: range) -> Iterator[int]:
    for task in tasks:
        yield task
        time.sleep(0.3)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_share_comes_from_torchrun_or_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Share.from_environment() == Share(0, 1)
    everything = default_processes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * everything))
    assert default_processes() == 1
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert Share.from_environment() == Share(3, 4)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Share.from_environment() == Share(1, 2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="RANK=1, WORLD_SIZE=1: expected whole numbers, the first smaller"):
        Share.from_environment()
