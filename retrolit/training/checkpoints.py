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

from retrolit.checkpoint.model_folder import is_sharded
from retrolit.checkpoint.sharded_files import ShardedCheckpoint
from retrolit.storage import atomic_write
from retrolit.storage.files import rename_folder
from retrolit.training.sharded_checkpoints import ShardedCheckpoints
from retrolit.training.termination import Termination

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
        if is_sharded(Path(path)):
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
        self._termination = Termination()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that goes on has the checkpoint it goes on from; what a killed one was writing is removed."""
        self._saved_step = trainer.global_step
        self._termination.listen()
        if trainer.is_global_zero:
            for leftover in (Path(trainer.default_root_dir) / FOLDER).glob(".step-*"):
                _remove(leftover)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the time has come and an optimizer step has just been done; end where that was asked for.

        Lightning calls this class last, so the batch's metrics are logged by now.
        """
        step = trainer.global_step
        due = step != self._saved_step and (step % self.every == 0 or step == trainer.max_steps)
        if due and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            self._save(trainer)
        self._termination.stop_if_received(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End here too: a validation may take longer than there is time."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._termination.stop_if_received(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the last checkpoint."""
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            self._finish(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when the machine is taken away, at the last optimizer step that was done."""
        if isinstance(exception, SIGTERMException):
            if trainer.global_step != self._saved_step:
                self._save(trainer)
            self._finish(trainer)

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

    def _finish(self, trainer: L.Trainer) -> None:
        if isinstance(trainer.strategy, ShardedCheckpoints):
            trainer.strategy.finish_saving()
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
    """Set the loops' counters in the checkpoint to what its optimizer steps take in this run."""
    done = checkpoint["global_step"] * trainer.accumulate_grad_batches
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    # Lightning saves before it counts a batch as completed, and counts it when it loads.
    counts = {"ready": done, "started": done, "processed": done, "completed": max(0, done - 1)}
    progress.update(total=dict(counts), current=dict(counts), is_last_batch=False)
    # A validation that comes behind this step is run as a whole, wherever in it the run has ended: so Lightning does
    # with one that stands at its first batch.
    begun, none = {"ready": 1, "started": 1}, dict.fromkeys(("ready", "started", "processed", "completed"), 0)
    loops["epoch_loop.val_loop.batch_progress"].update(total=none | begun, current=none, is_last_batch=False)


def _remove(path: Path) -> None:
    """Remove a file, or a folder, which is at no time a checkpoint of which a part is missing."""
    if not path.is_dir():
        return path.unlink()
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if hidden != path:
        rename_folder(path, hidden)
    shutil.rmtree(hidden)
