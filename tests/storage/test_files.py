"""Files are whole or not there."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from retrolit.storage import atomic_folder, atomic_write, lock, read_json, sha256_file, write_json


def _fail_while_writing(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError


def _fail_in_folder(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "file").write_bytes(b"half")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"old")
        assert not path.exists()
    with pytest.raises(RuntimeError):
        _fail_while_writing(path)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on file sizes makes the system refuse writes as a full disk does."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    program = f"""
import resource
from retrolit.storage import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with atomic_write({str(path)!r}) as file:
        file.write(bytes(1 << 20))
except OSError as error:
    print(error.filename)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail_in_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "file").write_bytes(b"whole")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "file").read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    with pytest.raises(FileExistsError, match="exists already; move it away"), atomic_folder(tmp_path / "model"):
        pytest.fail("work was done for nothing")


def test_json_round_trip_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": [1, "ä"], "a": None})
    assert path.read_text() == '{\n  "a": null,\n  "b": [\n    1,\n    "ä"\n  ]\n}\n'
    assert read_json(path) == {"a": None, "b": [1, "ä"]}
    path.write_text('{\n"a": oops}')
    with pytest.raises(ValueError, match=r"x\.json: line 2 is no valid JSON"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="expected JSON in UTF-8, got other bytes at offset 7"):
        read_json(path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _hold(path: Path, held: multiprocessing.synchronize.Event) -> None:
    with lock(path):
        held.set()
        time.sleep(60)


def test_a_lock_waits_and_dies_with_its_holder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / ".lock", held))
    holder.start()
    assert held.wait(30)
    threading.Timer(2, holder.kill).start()
    with lock(tmp_path / ".lock"):
        holder.join(30)
        assert holder.exitcode == -signal.SIGKILL
    assert "is held by another process at the same work; waiting for it" in caplog.text
