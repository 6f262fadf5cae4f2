"""Checkpoints that are always whole, and that a run goes on from by itself.

One file where each process holds the whole model, a folder where the model is shared out (see sharded_checkpoints.py).
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from retrolit.checkpoint.sharded_files import ShardedCheckpoint, is_sharded
from retrolit.storage import atomic_write
from retrolit.storage.files import rename_folder
from retrolit.training.sharded_checkpoints import ShardedCheckpoints

FOLDER = "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole files or none, and reads nothing but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file, whole or not at all."""
        if Path(path).is_dir():
            shutil.rmtree(path)  # a sharded one of this step, which could not be read
        with atomic_write(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one file, or a folder as if it were one, without ever running what a pickle asks for."""
        if is_sharded(path):
            return ShardedCheckpoint(path).whole()
        return torch.load(path, map_location=map_location, weights_only=True)


class Checkpoints(Checkpoint):
    """Writes checkpoints/step-XXXXXXXX.ckpt in the run's folder, at the end too and on SIGTERM.

    A checkpoint that is written while training goes on counts among those to keep when it is whole.

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
        """A run that goes on has the checkpoint it goes on from; what a killed one was writing is removed."""
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            for leftover in (Path(trainer.default_root_dir) / FOLDER).glob(".step-*"):
                _remove(leftover)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the time has come and an optimizer step has just been done."""
        step = trainer.global_step
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if step != self._saved_step and (step % self.every == 0 or step == trainer.max_steps):
            self._save(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the last checkpoint, and keep no more than `keep`."""
        if isinstance(trainer.strategy, ShardedCheckpoints):
            trainer.strategy.finish_saving()
        self._keep_newest(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when the machine is taken away, at the last optimizer step that was done."""
        if isinstance(exception, SIGTERMException) and trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the loop's counters say that exactly the batches of the optimizer steps done are done.

        In the middle of an accumulation they count batches whose gradients are not saved; those are read again.
        """
        _count_batches(trainer, checkpoint)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the batches of the steps done as this run divides a step, on more or fewer devices than before."""
        if trainer.training:
            _count_batches(trainer, checkpoint)

    def _save(self, trainer: L.Trainer) -> None:
        folder = Path(trainer.default_root_dir) / FOLDER
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(folder / f"step-{trainer.global_step:08}.ckpt", weights_only=False)
        self._keep_newest(trainer)

    def _keep_newest(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            for path in _checkpoints(Path(trainer.default_root_dir) / FOLDER)[: -self.keep]:
                _remove(path)


def newest_checkpoint(run_folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that can be read; None where there is none."""
    for path in reversed(_checkpoints(Path(run_folder) / FOLDER)):
        if _is_whole(path):
            return path
        print(f"{path} is damaged; going on from the one before")
    return None


def finished_steps(checkpoint: Path) -> int:
    """How many optimizer steps were done when the checkpoint was written; reads only what it needs of a large one."""
    if is_sharded(checkpoint):
        return int(ShardedCheckpoint(checkpoint).rest()["global_step"])
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"))


def _is_whole(path: Path) -> bool:
    if not path.is_dir():
        return zipfile.is_zipfile(path)
    try:
        ShardedCheckpoint(path)
    except (OSError, ValueError):
        return False
    return True


def _count_batches(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Set the loop's counters in the checkpoint to what its optimizer steps take in this run."""
    done = checkpoint["global_step"] * trainer.accumulate_grad_batches
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    # Lightning saves before it counts a batch as completed, and counts it when it loads.
    counts = {"ready": done, "started": done, "processed": done, "completed": max(0, done - 1)}
    progress.update(total=dict(counts), current=dict(counts), is_last_batch=False)


def _remove(path: Path) -> None:
    """Remove a file, or a folder, which is at no time a checkpoint of which a part is missing."""
    if not path.is_dir():
        return path.unlink()
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if hidden != path:
        rename_folder(path, hidden)
    shutil.rmtree(hidden)
