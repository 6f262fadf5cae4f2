"""Callbacks that interrupt a run where a test says; named in a recipe of the test."""

import multiprocessing
import os
import resource
import signal

import lightning as L


class SignalAt(L.Callback):
    """Sends the process a signal when a micro-batch of a step begins, or with `validation` a batch of the validation
    behind so many steps; with `rank` only that of several processes."""

    def __init__(
        self, step: int, micro_batch: int = 0, name: str = "SIGKILL", rank: int | None = None, validation: bool = False
    ) -> None:
        self.place = (step, micro_batch)
        self.signal = signal.Signals[name]
        self.rank = rank
        self.validation = validation

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.validation:
            self._signal(trainer, batch_idx % trainer.accumulate_grad_batches)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.validation:
            self._signal(trainer, batch_idx)

    def _signal(self, trainer, micro_batch):
        if (trainer.global_step, micro_batch) == self.place and self.rank in (None, trainer.global_rank):
            for worker in multiprocessing.active_children() if self.signal == signal.SIGKILL else []:
                worker.kill()  # as when the machine dies
            os.kill(os.getpid(), self.signal)


class BreakAt(L.Callback):
    """Spoils a weight before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            next(iter(pl_module.parameters())).data.fill_(float("nan"))


class KillAtRename(L.Callback):
    """Kills the process that gives a checkpoint's folder its name, when everything in it is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_start(self, trainer, pl_module):
        rename = os.rename

        def kill_or_rename(source, target):
            if os.path.basename(target) == self.name:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.rename = kill_or_rename


class SmallDisk(L.Callback):
    """No file can grow beyond this many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def on_train_start(self, trainer, pl_module):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
