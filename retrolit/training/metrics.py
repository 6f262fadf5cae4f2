"""What a run tells about itself: loss, speed, gradient norm, learning rate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from retrolit.evaluation.measures import bits_per_byte, perplexity
from retrolit.models import Retro
from retrolit.training.checkpoints import newest_checkpoint
from retrolit.training.divergence import Divergence
from retrolit.training.loggers import log_row, row_is_due
from retrolit.training.module import LanguageModule
from retrolit.training.step_split import StepSplit
from retrolit.training.throughput import device_peak_flops


class TrainingMetrics(L.Callback):
    """Logs train/* every `trainer.log_every_n_steps` optimizer steps, and stops a run that diverges.

    train/loss is the mean over the global batch of that very step; speeds are means since the last row, with
    validation and checkpoints left out. How a Retro's step divides is measured in that very step alone; its shares and
    the share of waiting for data are 1 together, and what is no other part's is the decoder's.

    Args:
        max_loss_rise: Stop when the mean loss of 20 steps lies this far (in nats) above the lowest so far.
    """

    def __init__(self, max_loss_rise: float = 3.0) -> None:
        self.divergence = Divergence(max_loss_rise)
        self._loss_sum = 0.0
        self._seconds = 0.0
        self._steps = 0
        self._waited = 0.0
        self._begin = 0.0
        self._split: StepSplit | None = None
        self._before_step = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare to time the parts of a Retro that reads neighbors."""
        assert isinstance(pl_module, LanguageModule)
        if isinstance(pl_module.model, Retro) and pl_module.data.num_neighbors:
            self._split = StepSplit(pl_module.model, trainer.strategy.root_device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the model as it was."""
        if self._split is not None:
            self._split.remove()
            self._split = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock; it stops at the batch's end, and the loader has one for reading."""
        self._begin = time.perf_counter()
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if self._split is not None and first and row_is_due(trainer, after=1):
            self._before_step = self._seconds
            self._split.start()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The parts' backward passes are over."""
        if self._split is not None and self._split.active:
            self._split.end_backward()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """From here to the batch's end gradients are clipped and weights changed."""
        if self._split is not None and self._split.active:
            self._split.begin_optimizer()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the micro-batches; after an optimizer step, judge the loss and perhaps log."""
        assert isinstance(pl_module, LanguageModule)
        # Lightning has divided the loss by the number of micro-batches already.
        self._loss_sum = self._loss_sum + outputs["loss"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            self._seconds += time.perf_counter() - self._begin
            return
        loss = float(trainer.strategy.reduce(torch.as_tensor(self._loss_sum), reduce_op="mean") * pl_module.loss_scale)
        self._loss_sum = 0.0
        self._steps += 1
        # Only now: reading the loss has waited for the device.
        self._seconds += time.perf_counter() - self._begin
        self._stop_if_diverged(trainer, loss)
        if row_is_due(trainer):
            self._log(trainer, pl_module, loss)

    def _log(self, trainer: L.Trainer, module: LanguageModule, loss: float) -> None:
        data = module.data
        assert data.train_loader is not None
        assert module.model is not None
        waited = data.train_loader.wait_seconds - self._waited
        seconds = self._seconds + waited
        tokens_per_second = self._steps * data.tokens_per_step / seconds
        row = {
            "train/loss": loss,
            "train/perplexity": perplexity(loss, 1),
            "train/bits_per_byte": bits_per_byte(loss, data.bytes_per_token("train")),
            "train/gradient_norm": float(module.gradient_norm),
            "train/learning_rate": module.learning_rate,
            "train/consumed_samples": trainer.global_step * data.global_batch_size,
            "train/consumed_tokens": trainer.global_step * data.tokens_per_step,
            "speed/tokens_per_second": tokens_per_second,
            "speed/data_wait_share": waited / seconds,
        }
        if self._split is not None and self._split.active:
            parts = self._split.stop()
            scale = (1 - waited / seconds) / (self._seconds - self._before_step)
            shares = {part: parts.get(part, 0.0) * scale for part in ("encoder", "cross_attention", "optimizer")}
            shares["decoder"] = 1 - waited / seconds - sum(shares.values())
            row |= {f"speed/{part}_share": share for part, share in shares.items()}
        peak = device_peak_flops(module.device)
        if peak is not None:
            flops = tokens_per_second * module.flops_per_token(data.sequence_length)
            row["speed/model_flops_utilization"] = flops / (peak * trainer.world_size)
        log_row(trainer, row)
        # For the progress bar, and for callbacks that monitor a metric.
        module.log_dict(row, logger=False, batch_size=1)
        self._seconds, self._steps, self._waited = 0.0, 0, data.train_loader.wait_seconds

    def _stop_if_diverged(self, trainer: L.Trainer, loss: float) -> None:
        verdict = self.divergence.verdict(loss)
        if verdict is None:
            return
        before = newest_checkpoint(Path(trainer.default_root_dir))
        remains = f"the checkpoint from before is {before}" if before else "there is no checkpoint from before"
        raise FloatingPointError(
            f"training diverged at step {trainer.global_step}: {verdict}; {remains}. "
            "Lower model.optimizer.lr, lengthen the warmup or set trainer.gradient_clip_val"
        )
