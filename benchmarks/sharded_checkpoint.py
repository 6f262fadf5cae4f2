"""Writing and reading a sharded checkpoint by 2 processes, against what the disk does with as many plain bytes.

    python -m benchmarks.sharded_checkpoint [--gigabytes 1] [--rounds 3] [--folder /tmp]

Weights and AdamW's two moments, float32, come to that many gigabytes. Both processes write half of the bytes, forced to
the disk; before anything is read, it is dropped from the system's cache. "waits" is how long training stands still for
a checkpoint, which is then written while it goes on. Goal: save and load at half of the disk's rate or more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from benchmarks.machine import describe
from retrolit.training import ShardedStrategy

PROCESSES, LAYERS, COPIES = 2, 16, 3


class Layers(L.LightningModule):
    """Square layers in a row, shared out layer by layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(LAYERS)))

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        for layer in self.layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layers(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), fused=True)


class Measure(L.Callback):
    """After one step: the disk, a checkpoint, the disk, a checkpoint ..."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self.rounds = rounds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        strategy, path = trainer.strategy, self.folder / "step.ckpt"
        assert isinstance(strategy, ShardedStrategy)
        size = (
            COPIES
            * 4
            * sum(weight.to_local().numel() for weight in pl_module.parameters() if isinstance(weight, DTensor))
        )
        own, content = self.folder / f"plain-{trainer.global_rank}", memoryview(os.urandom(size))
        times: dict[str, list[float]] = {"write": [], "read": [], "waits": [], "save": [], "load": []}

        def clock(name: str, start: float) -> None:
            strategy.barrier()
            times[name].append(time.perf_counter() - start)

        for _ in range(self.rounds):
            strategy.barrier()
            start = time.perf_counter()
            with open(own, "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            clock("write", start)
            _drop_from_cache(own)
            start = time.perf_counter()
            own.read_bytes()
            clock("read", start)
            start = time.perf_counter()
            trainer.save_checkpoint(path, weights_only=False)
            clock("waits", start)
            strategy.finish_saving()
            clock("save", start)
            for file in path.iterdir():
                _drop_from_cache(file)
            strategy.barrier()
            start = time.perf_counter()
            strategy.load_checkpoint(path)
            clock("load", start)
        if trainer.is_global_zero:
            gigabytes = PROCESSES * size / 1e9
            median = {name: statistics.median(values) for name, values in times.items()}
            print(f"{gigabytes:.2f} GB: " + ", ".join(f"{name} {value:.2f} s" for name, value in median.items()))
            disk, ours = median["write"] + median["read"], median["save"] + median["load"]
            print(
                f"disk {2 * gigabytes / disk:.2f} GB/s, checkpoint {2 * gigabytes / ours:.2f} GB/s: {disk / ours:.2f}"
            )


def train(rank: int, width: int, folder: Path, rounds: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "TORCHELASTIC_RUN_ID": "benchmark"}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu", devices=PROCESSES, strategy=ShardedStrategy(), max_steps=1, default_root_dir=folder,
        callbacks=[Measure(folder, rounds)], enable_checkpointing=False, use_distributed_sampler=False, **quiet,
    )  # fmt: skip
    trainer.fit(Layers(width), DataLoader([torch.randn(width)]))  # pyright: ignore[reportArgumentType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk to measure; the system's temporary folder when not given")
    options = parser.parse_args()
    print(describe("lightning"))
    width = round((options.gigabytes * 1e9 / (4 * COPIES * LAYERS)) ** 0.5) // 2 * 2
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        context = multiprocessing.get_context("spawn")
        arguments = (width, Path(folder), options.rounds)
        started = [context.Process(target=train, args=(rank, *arguments)) for rank in range(PROCESSES)]
        for process in started:
            process.start()
        for process in started:
            process.join()


def _drop_from_cache(path: Path) -> None:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
