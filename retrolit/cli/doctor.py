"""Look at this machine: what is installed, what it can do, and whether torch and faiss live together."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from retrolit import __version__

REQUIRED = ("torch", "lightning", "jsonargparse", "torchmetrics", "tokenizers", "safetensors", "rich", "numpy")
OPTIONAL = {
    "faiss-cpu": "cpu",
    "faiss-gpu": "gpu",
    "sentencepiece": "sentencepiece",
    "transformers": "hf",
    "pyarrow": "data",
    "zstandard": "data",
    "datasets": "data",
    "tensorboard": "tensorboard",
    "matplotlib": "plot",
}

# Both libraries bring a copy of OpenMP; a bad pair of builds crashes or hangs here, so each try is its own process.
TORCH_AND_FAISS = """
import sys
import numpy as np
import torch
import faiss
numbers = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
vectors = torch.nn.functional.normalize(numbers @ torch.eye(32))
index = faiss.IndexFlatIP(32)
index.add(vectors.numpy())
_, found = index.search(vectors[:100].numpy(), 1)
sys.exit(int((found[:, 0] != np.arange(100)).any()))
"""
IN_A_WORKER = """
import torch
import faiss
class Lookups(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        index = faiss.IndexFlatIP(8)
        index.add(torch.eye(8).numpy())
        return int(index.search(torch.eye(8)[i : i + 1].numpy(), 1)[1][0, 0])
if __name__ == "__main__":
    (torch.randn(256, 256) @ torch.randn(256, 256)).sum()
    found = list(torch.utils.data.DataLoader(Lookups(), num_workers=1, batch_size=None))
    raise SystemExit(int(found != [0, 1, 2, 3]))
"""


def doctor() -> None:
    """Print versions and devices, and try torch and faiss together in one process and in a data-loading worker.

    The output is made to be pasted into a bug report. Exit code 1 when something that retrolit needs is missing or
    broken.
    """
    problems: list[str] = []
    print(f"retrolit {__version__}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    _print_packages(problems)
    _print_devices()
    _print_faiss(problems)
    print("\n" + "\n".join(f"problem: {problem}" for problem in problems) if problems else "\nno problem found")
    if problems:
        raise SystemExit(1)


def _print_packages(problems: list[str]) -> None:
    for name in REQUIRED:
        found = _version(name)
        print(f"  {name:14} {found or 'missing'}")
        if found is None:
            problems.append(f"{name} is missing; pip install retrolit brings it")
    for name, extra in OPTIONAL.items():
        print(f"  {name:14} {_version(name) or f'not installed (extra: {extra})'}")
    if _version("faiss-cpu") and _version("faiss-gpu"):
        problems.append("faiss-cpu and faiss-gpu overwrite each other's files; uninstall both, then install one")
    elif not (_version("faiss-cpu") or _version("faiss-gpu")):
        problems.append('faiss is missing, retrieval needs it; pip install "retrolit[cpu]" or "retrolit[gpu]"')


def _print_devices() -> None:
    import torch

    if not torch.cuda.is_available():
        print(f"  devices        CPU only, {torch.get_num_threads()} threads")
        return
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        print(f"  cuda:{i}         {properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _print_faiss(problems: list[str]) -> None:
    if not (_version("faiss-cpu") or _version("faiss-gpu")):
        return
    for where, program in (("one process", TORCH_AND_FAISS), ("a worker", IN_A_WORKER)):
        failure = _failure(program)
        print(f"  torch + faiss  in {where}: {failure or 'works'}")
        if failure:
            problems.append(f"torch and faiss in {where}: {failure}; try another build of one of them")


def _failure(program: str, seconds: int = 120) -> str | None:
    try:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
