"""What a training step costs: time with the models taking turns, memory with each in a process of its own (Linux)."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer

Step = Callable[[], float]
"""Trains one step and gives the loss."""


def training_step(loss_of: Callable[[], Tensor], optimizer: Optimizer) -> Step:
    """Forward, backward and the optimizer, on the same batch every time."""

    def step() -> float:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def take_turns(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """Median "CPU time" (all threads) and "wall" seconds of each step, after three that are not counted."""
    for step in steps.values():
        for _ in range(3):
            step()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {
            "CPU time": statistics.median(cpu for cpu, _ in every),
            "wall": statistics.median(wall for _, wall in every),
        }
        for name, every in spent.items()
    }


def memory_above_model(make_step: Callable[[], Step]) -> int:
    """Bytes that three steps need above the built model, by the highest resident size of this process."""
    memory, _ = first_steps(make_step())
    return memory


def first_steps(step: Step, steps: int = 3) -> tuple[int, list[float]]:
    """Bytes that these steps need above what is there, by the highest resident size of this process, and losses."""
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # VmHWM starts again from the present size
    before = _status("VmRSS")
    losses = [step() for _ in range(steps)]
    return _status("VmHWM") - before, losses


def memory_in_own_process(module: str, name: str) -> int:
    """The bytes that `python -m MODULE --memory-of NAME` prints."""
    command = [sys.executable, "-m", module, "--memory-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _status(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))
