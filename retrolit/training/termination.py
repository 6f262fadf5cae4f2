"""SIGTERM under many processes: all of them stop behind the same batch, whichever was told to."""

from __future__ import annotations

import signal
import threading
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import SIGTERMException


class Termination:
    """Notes SIGTERM, in place of Lightning's own handler.

    That one lets processes talk to each other from within the signal, wherever each of them stands, and they may wait
    for each other forever. Here they agree behind every batch.
    """

    def __init__(self) -> None:
        self._received = False

    def listen(self) -> None:
        """From now on, in the main thread, where alone it can be; Lightning puts back what was there before."""
        self._received = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def stop_if_received(self, trainer: L.Trainer) -> None:
        """Raises SIGTERMException on all processes where one was told to end; all of them call this."""
        received = torch.tensor(float(self._received), device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            dist.all_reduce(received, dist.ReduceOp.MAX)
        if received:
            raise SIGTERMException

    def _note(self, *_: Any) -> None:
        self._received = True
