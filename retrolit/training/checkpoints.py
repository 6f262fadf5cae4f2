"""Checkpoints that are always whole, and that a run goes on from by itself."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from retrolit.storage import atomic_write

FOLDER = "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole files or none, and reads nothing but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file, whole or not at all."""
        with atomic_write(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one file, without ever running what a pickle asks for."""
        return torch.load(path, map_location=map_location, weights_only=True)


class Checkpoints(Checkpoint):
    """Writes checkpoints/step-XXXXXXXX.ckpt in the run's folder, at the end too and on SIGTERM.

    Args:
        every: Optimizer steps between checkpoints.
        keep: How many to keep; the newest ones.
    """

    def __init__(self, every: int = 1000, keep: int = 2) -> None:
        if every < 1 or keep < 1:
            raise ValueError(f"checkpoints: expected every and keep of at least 1, got {every} and {keep}")
        self.every = every
        self.keep = keep
        self._saved_step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that goes on has the checkpoint it goes on from."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the time has come and an optimizer step has just been done."""
        step = trainer.global_step
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if step != self._saved_step and (step % self.every == 0 or step == trainer.max_steps):
            self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when the machine is taken away, at the last optimizer step that was done."""
        if isinstance(exception, SIGTERMException) and trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the loop's counters say that exactly the batches of the optimizer steps done are done.

        In the middle of an accumulation they count batches whose gradients are not saved; those are read again.
        """
        done = trainer.global_step * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        # Lightning saves before it counts a batch as completed, and counts it when it loads.
        counts = {"ready": done, "started": done, "processed": done, "completed": max(0, done - 1)}
        progress.update(total=dict(counts), current=dict(counts), is_last_batch=False)

    def _save(self, trainer: L.Trainer) -> None:
        folder = Path(trainer.default_root_dir) / FOLDER
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(folder / f"step-{trainer.global_step:08}.ckpt", weights_only=False)
        if trainer.is_global_zero:
            for path in _checkpoints(folder)[: -self.keep]:
                path.unlink()


def newest_checkpoint(run_folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that can be read; None where there is none."""
    for path in reversed(_checkpoints(Path(run_folder) / FOLDER)):
        if zipfile.is_zipfile(path):
            return path
        print(f"{path} is damaged; going on from the one before")
    return None


def finished_steps(checkpoint: Path) -> int:
    """How many optimizer steps were done when the checkpoint was written; reads only what it needs of a large file."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"))
