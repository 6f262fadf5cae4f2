"""Several implementations taking turns, each in a process of its own that keeps its model between its turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import REQUIREMENTS, python_for

DEFAULT_ENVIRONMENTS = Path("~/.cache/retrolit/benchmarks")


@dataclass
class Figures:
    """What a worker said of one implementation."""

    facts: dict[str, Any]
    """Version, number of parameters, and what its first rounds showed."""

    cpu: list[float] = field(default_factory=list)
    """Seconds of all threads, of each round."""

    wall: list[float] = field(default_factory=list)
    """Seconds that passed in each round."""

    def median(self, clock: str) -> float:
        return statistics.median(getattr(self, clock))


class Worker:
    """A running worker process."""

    def __init__(self, name: str, work: str, environments: Path) -> None:
        """Starts it and waits until its model is ready. Raises RuntimeError with the reason where it gets nowhere."""
        self.name = name
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        try:
            python = python_for(name, environments)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"pip could not install it: {_last_line(error.stderr)}") from error
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker", name, work],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True,
        )  # fmt: skip
        self.facts = self._answer()

    def one_round(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End of input ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.complaints.seek(0)
        raise RuntimeError(f"it does not run: {_last_line(self.complaints.read())}")


def take_turns(names: Sequence[str], work: str, rounds: int, environments: Path) -> dict[str, Figures]:
    """The figures of all that can be installed and run at `work` (train, generate); why a peer cannot is printed."""
    workers: list[Worker] = []
    for name in names:
        try:
            workers.append(Worker(name, work, environments.expanduser()))
        except RuntimeError as reason:
            if name not in REQUIREMENTS:
                raise
            print(f"{name} is left out: {reason}", flush=True)
            continue
        facts = workers[-1].facts
        print(f"{name}: {facts['parameters'] / 1e6:.2f} M parameters, {', '.join(facts['versions'])}", flush=True)
    figures = {worker.name: Figures(worker.facts) for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            spent = worker.one_round()
            figures[worker.name].cpu.append(spent["cpu"])
            figures[worker.name].wall.append(spent["wall"])
    for worker in workers:
        worker.close()
    return figures


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
