"""run.json: what a run's settings do not tell: the machine it ran on, and fingerprints of the data it read."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from retrolit import __version__
from retrolit.training.module import LanguageModule

FILE_NAME = "run.json"


def surroundings(trainer: L.Trainer, module: LanguageModule) -> dict[str, Any]:
    """In JSON's types: made_by, machine and data. Of a run that went on elsewhere, the last machine is kept."""
    device = module.device
    on_gpu = device.type == "cuda"
    return {
        "made_by": f"retrolit {__version__}",
        "machine": {
            "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {_processor()}",
            "processes": trainer.world_size,
            "cores": os.cpu_count(),
            "precision": str(trainer.precision),
            "system": platform.platform(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "lightning": version("lightning"),
        },
        "data": {
            name: value for name, value in module.data.state_dict().items() if name.startswith("prepared")
        } | {"tokenizer": module.data.tokenizer.fingerprint},
    }  # fmt: skip


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
