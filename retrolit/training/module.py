"""GPTModule: a GPT under Lightning."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from retrolit.data.batch import Batch
from retrolit.models import GPT, GPTConfig, Loss
from retrolit.training.clipping import clip_gradients
from retrolit.training.loggers import log_row
from retrolit.training.loss_totals import LossTotals
from retrolit.training.optimizer import OptimizerConfig, make_optimizer
from retrolit.training.pretraining_data import PretrainingData
from retrolit.training.schedule import ScheduleConfig, learning_rate
from retrolit.training.settings import refuse_changes


class GPTModule(L.LightningModule):
    """Trains a GPT: next-token loss, AdamW, a learning-rate schedule, clipping.

    Args:
        config: What the GPT is made of.
        optimizer: AdamW's settings.
        schedule: The learning rate over the run.
        init_from: A model folder or a checkpoint to take the first weights from; random ones when not given.
        compile: Compile each layer with torch.compile (worth it on GPUs).
        checkpoint_activations: Keep only each layer's input and compute the layer again in the backward pass:
            less memory, about a third more time.
    """

    model_type = "gpt"

    def __init__(
        self,
        config: GPTConfig,
        *,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (a default that is never changed, and shown by --help)
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        init_from: str | None = None,
        compile: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.optimizer_config = optimizer
        self.schedule = schedule
        self.init_from = init_from
        self.compile_layers = compile
        self.checkpoint_activations = checkpoint_activations
        self.model: GPT | None = None
        self.totals = LossTotals()
        self.gradient_norm = torch.tensor(0.0)
        """Of the last optimizer step, before clipping."""
        self.learning_rate = 0.0
        """Of the last optimizer step."""

    @property
    def data(self) -> PretrainingData:
        """The trainer's data module."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def setup(self, stage: str) -> None:
        """Raises ValueError where model, data and trainer do not fit together."""
        vocab_size, longest = self.data.tokenizer.vocab_size, self.config.max_position_embeddings
        if self.config.vocab_size < vocab_size:
            raise ValueError(
                f"model.config.vocab_size: expected at least the tokenizer's {vocab_size}, got {self.config.vocab_size}"
            )
        if self.data.sequence_length > longest:
            raise ValueError(
                f"data.sequence_length: expected at most model.config.max_position_embeddings ({longest}), "
                f"got {self.data.sequence_length}"
            )
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                "trainer.precision: expected bf16-mixed, bf16-true or 32-true; 16-mixed cannot clip with fused AdamW"
            )

    def configure_model(self) -> None:
        """Build the model where it will live: on each device, sharded or not, as the strategy says."""
        if self.model is not None:
            return
        self.model = GPT(self.config)
        self.model.checkpoint_activations = self.checkpoint_activations
        if self.init_from is not None:
            self._load_initial_weights(self.init_from)
        if self.compile_layers:
            for layer in self.model.layers:
                layer.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean token loss of one micro-batch."""
        return self._loss(batch).mean

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self.totals = LossTotals()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the split's loss."""
        self.totals.add(self._loss(batch).tokens, batch.loss_mask)

    def on_validation_epoch_end(self) -> None:
        """Log val/loss, val/perplexity and val/bits_per_byte."""
        if not self.trainer.sanity_checking:
            self._log_totals("val", "validation")

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self.totals = LossTotals()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the split's loss."""
        self.totals.add(self._loss(batch).tokens, batch.loss_mask)

    def on_test_epoch_end(self) -> None:
        """Log test/loss, test/perplexity and test/bits_per_byte."""
        self._log_totals("test", "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """(B, T) float32: every token's loss in nats."""
        return self._loss(batch).tokens

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make this micro-batch's randomness (dropout) a function of where the run stands and of nothing before it.

        So a resumed run draws what the uninterrupted one would have drawn, with nothing to save, on any device.
        """
        place = (
            self.data.seed,
            self.trainer.global_step,
            batch_idx % self.trainer.accumulate_grad_batches,
            self.global_rank,
        )
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def configure_optimizers(self) -> Any:
        """AdamW, and the schedule stepped once per optimizer step."""
        assert self.model is not None
        schedule, peak = self.schedule, self.optimizer_config.lr
        optimizer = make_optimizer(self.model, self.optimizer_config)
        per_step = {"steps": 1, "samples": self.data.global_batch_size, "tokens": self.data.tokens_per_step}[
            schedule.unit
        ]
        length = schedule.length if schedule.length is not None else self.trainer.max_steps * per_step

        def factor(step: int) -> float:
            return learning_rate(schedule, peak, (step + 1) * per_step, length) / peak

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; keep the norm, and the rate of this step, for the metrics.

        In place of Lightning's own, which refuses fused AdamW under bf16-mixed and knows no sharded gradients.
        """
        self.gradient_norm = clip_gradients(self.parameters(), gradient_clip_val or None)
        self.learning_rate = optimizer.param_groups[0]["lr"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what `load_model` needs, and what a resumed run must not change."""
        checkpoint["retrolit"] = {
            "model_type": self.model_type,
            "config": asdict(self.config),
            "optimizer": asdict(self.optimizer_config),
            "schedule": asdict(self.schedule),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError where a resumed run changes settings, or a checkpoint is of another model."""
        before = checkpoint.get("retrolit")
        if before is None or before["model_type"] != self.model_type:
            found = "none of ours" if before is None else before["model_type"]
            raise ValueError(f"ckpt_path: expected a checkpoint of a {self.model_type}, got {found}")
        now: dict[str, Any] = {}
        self.on_save_checkpoint(now)
        sections = ("config", "optimizer", "schedule") if self.trainer.training else ("config",)
        refuse_changes(
            "model", {name: before[name] for name in sections}, {name: now["retrolit"][name] for name in sections}
        )

    def _loss(self, batch: Batch) -> Loss:
        assert self.model is not None
        return self.model.loss(batch.tokens, batch.labels, batch.loss_mask)

    def _log_totals(self, prefix: str, split: str) -> None:
        result = self.totals.result(self.trainer.strategy, self.data.bytes_per_token(split))
        row = {f"{prefix}/{name}": value for name, value in result.items()}
        log_row(self.trainer, row)
        self.log_dict(row, logger=False, sync_dist=True)

    def _load_initial_weights(self, path: str) -> None:
        from retrolit.checkpoint import load_model

        source = load_model(path)
        assert self.model is not None
        shape_only = ("attention_dropout", "hidden_dropout", "init_std")  # what weights do not depend on
        theirs = {name: value for name, value in asdict(source.config).items() if name not in shape_only}
        ours = {name: value for name, value in asdict(self.config).items() if name not in shape_only}
        differing = [
            f"{name} is {theirs[name]} there and {ours[name]} here" for name in ours if theirs[name] != ours[name]
        ]
        if differing:
            raise ValueError(f"model.init_from: {path} is another model than model.config: {'; '.join(differing)}")
        self.model.load_state_dict(source.state_dict())
