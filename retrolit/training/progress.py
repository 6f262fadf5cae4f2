"""How far a run is: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.progress import ProgressColumn

from retrolit.checkpoint.model_types import kind_of
from retrolit.training.loggers import row_is_due
from retrolit.training.module import LanguageModule

SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "val/loss": ("val", "{:.3f}"),
    "val/bits_per_byte": ("val bits/byte", "{:.3f}"),
    "test/loss": ("test", "{:.3f}"),
    "speed/tokens_per_second": ("tokens/s", "{:,.0f}"),
}


def progress() -> ProgressBar:
    """The one that suits where the output goes."""
    return Bar() if sys.stdout.isatty() else Lines()


class Opening(L.Callback):
    """Says before the first step what will be trained on what."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A few lines, from the first process."""
        assert isinstance(pl_module, LanguageModule)
        assert pl_module.model is not None
        if not trainer.is_global_zero:
            return
        data, steps = pl_module.data, trainer.max_steps
        print(
            f"{kind_of(pl_module.config)} of {pl_module.model.num_parameters():,} parameters, "
            f"{trainer.world_size} x {pl_module.device}, {trainer.precision}: {steps:,} steps of "
            f"{data.global_batch_size} x {data.sequence_length} tokens = {steps * data.tokens_per_step:,} tokens"
        )
        print("\n".join(data.accounting()), flush=True)


class Bar(RichProgressBar):
    """Lightning's bar, counting optimizer steps of the whole run, with the few numbers that matter."""

    @property
    def total_train_batches(self) -> int:
        """Optimizer steps of the run."""
        return self.trainer.max_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the optimizer steps done: a micro-batch that only accumulates is none."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Without the batches a second, as there are tokens a second."""
        columns = super().configure_columns(trainer)
        return [column for column in columns if not isinstance(column, ProcessingSpeedColumn)]

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The newest of each; bits per byte say what the validation loss says, and a line is short."""
        return {label: value for label, value in _newest(trainer).items() if label != "val"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"  # the whole run is one Lightning epoch, "Epoch 0/-2" tells nobody anything


class Lines(ProgressBar):
    """One line every `trainer.log_every_n_steps` optimizer steps, and one a validation."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._began = (0, 0.0)

    def disable(self) -> None:
        """Print nothing: Lightning asks for it on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The line of this step, if it has one."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not row_is_due(trainer):
            return
        first, then = self._began
        seconds_per_step = (time.monotonic() - then) / (trainer.global_step - first)
        left = seconds_per_step * (trainer.max_steps - trainer.global_step)
        self._print(trainer, f"{_duration(left)} left")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The line with the validation's result."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._print(trainer, "validated")

    def _print(self, trainer: L.Trainer, note: str) -> None:
        if self._enabled:
            numbers = "  ".join(f"{name} {value}" for name, value in _newest(trainer).items())
            print(f"step {trainer.global_step}/{trainer.max_steps}  {numbers}  {note}", flush=True)


def _newest(trainer: L.Trainer) -> dict[str, str]:
    metrics = trainer.callback_metrics
    return {label: form.format(float(metrics[name])) for name, (label, form) in SHOWN.items() if name in metrics}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
