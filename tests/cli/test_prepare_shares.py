"""retrolit prepare as several real processes: torchrun's and SLURM's, one that is killed, one that is late."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DATA = """\
folder: {folder}
tokens:
  corpora: {{python-docs: {{source: "python-docs:json,random,logging,datetime"}}}}
  tokenizer: {{type: bytes}}
  splits: {{train: 0.9, validation: 0.1}}
retrieval:
  chunk_length: 8
  embedder: {{dimension: 32}}
  neighbors: {{num_saved: 4, num_searched: 20}}
"""
COMMAND = [sys.executable, "-m", "retrolit", "prepare", "-c"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "retrolit", "prepare", "-c"]
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


def recipe(tmp_path: Path, folder: str) -> Path:
    path = tmp_path / f"{folder}.yaml"
    path.write_text(DATA.format(folder=tmp_path / folder))
    return path


def start(command: list[str], data: Path, log: Path, **variables: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with open(log, "wb") as file:
        return subprocess.Popen([*command, str(data)], env=environment | variables, stdout=file, stderr=file)


def finish(process: subprocess.Popen, log: Path) -> str:
    assert process.wait(timeout=120) == 0, log.read_text()
    return log.read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """All files, hidden ones too, but for locks, the cards with their speeds, and what a killed process was writing."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".partial") and path.name != "card.json"
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes: several blocks of vectors and of neighbors."""
    tmp_path = tmp_path_factory.mktemp("alone")
    finish(start(COMMAND, recipe(tmp_path, "alone"), tmp_path / "log"), tmp_path / "log")
    made = contents(tmp_path / "alone")
    assert sum("/embeddings-" in name and name.endswith(".block") for name in made) > 1
    return made


def test_torchrun_gives_the_bytes_of_one_process(alone: dict[str, bytes], tmp_path: Path) -> None:
    printed = finish(start(TORCHRUN, recipe(tmp_path, "two"), tmp_path / "log"), tmp_path / "log")
    assert printed.count("next        retrolit fit") == 1, "rank 0 alone reports"
    assert contents(tmp_path / "two") == alone


def test_slurm_gives_the_bytes_of_one_process_when_one_is_killed_and_when_one_is_late(
    alone: dict[str, bytes], tmp_path: Path
) -> None:
    data, embeddings = recipe(tmp_path, "two"), "retrieval/embeddings-*/*.block"

    def rank(number: int) -> subprocess.Popen:
        return start(COMMAND, data, tmp_path / f"log{number}", SLURM_PROCID=str(number), SLURM_NTASKS="2")

    processes = [rank(0), rank(1)]
    deadline = time.monotonic() + 100
    while not list((tmp_path / "two").glob(embeddings)) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGKILL)
    assert processes[0].wait(timeout=20) == -signal.SIGKILL
    assert processes[1].poll() is None, "the other one waits for rank 0"

    again = rank(0)  # the same command again; the one that waits goes on, too
    finish(again, tmp_path / "log0")
    finish(processes[1], tmp_path / "log1")
    assert contents(tmp_path / "two") == alone
    finish(rank(1), tmp_path / "log1")  # and one that comes when all is done changes nothing
    assert contents(tmp_path / "two") == alone
    shutil.rmtree(tmp_path / "two")
