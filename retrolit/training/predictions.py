"""The loss of every token, written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.lib.format import open_memmap

from retrolit.training.module import LanguageModule
from retrolit.training.pretraining_data import streams

FOLDER = "token_losses"


class TokenLosses(Callback):
    """`predict` writes token_losses/CORPUS.npy into the run's folder: float32, (tokens of the test split,), in nats.

    Entry p is the loss of stream token p given what precedes it in its window; NaN where nothing predicts it (the
    stream's first token). Side by side with the token store it shows where a model is good, document by document.
    """

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One file a corpus, made by the first process and opened by all."""
        assert isinstance(pl_module, LanguageModule)
        self.data = streams(pl_module.data)
        self.samples = self.data.evaluation_samples("test")
        self.paths = [Path(trainer.default_root_dir) / FOLDER / f"{c.name}.npy" for c in self.data.corpora["test"]]
        partial = [path.with_suffix(".partial") for path in self.paths]
        if trainer.is_global_zero:
            for path, stream in zip(partial, self.samples.streams, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                open_memmap(path, mode="w+", dtype=np.float32, shape=(len(stream.tokens),))[:] = np.nan
        trainer.strategy.barrier("token_losses made")
        self.files = [open_memmap(path, mode="r+") for path in partial]
        self.numbers = self.data.evaluation_numbers("test")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put a batch's losses where their tokens stand."""
        for number, losses in zip(self.numbers[batch_idx], outputs.float().cpu().numpy(), strict=True):
            num_labels = max(0, len(self.samples.window(number)) - 1)
            stream, start = self.samples.locate(number)
            self.files[stream][start + 1 : start + 1 + num_labels] = losses[:num_labels]

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the files their names once all processes are done."""
        for file in self.files:
            file.flush()
        trainer.strategy.barrier("token_losses written")
        if trainer.is_global_zero:
            for path in self.paths:
                path.with_suffix(".partial").replace(path)
