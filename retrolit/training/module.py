"""LanguageModule: a language model under Lightning, whichever it is."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from retrolit.checkpoint.model_types import decoder_of, empty_model, kind_of
from retrolit.data.batch import Batch
from retrolit.evaluation.loss_totals import LossTotals
from retrolit.models import GPT, GPTConfig, Loss, Retro, RetroConfig
from retrolit.training.clipping import clip_gradients
from retrolit.training.first_weights import Stored, fill, open_stored
from retrolit.training.loggers import log_row
from retrolit.training.optimizer import OptimizerConfig, make_optimizer
from retrolit.training.schedule import ScheduleConfig, learning_rate
from retrolit.training.settings import differences, refuse_changes
from retrolit.training.strategies import ShardedStrategy
from retrolit.training.training_data import TrainingData

WITHOUT_WEIGHTS = ("attention_dropout", "hidden_dropout", "init_std", "encoder_attention_dropout",
                   "encoder_hidden_dropout", "num_neighbors", "cross_attention_init")  # fmt: skip
"""Fields of a model's config that a run may have otherwise than the weights it begins with."""


class LanguageModule(L.LightningModule, ABC):
    """What training is the same for all models: next-token loss, AdamW, a learning-rate schedule, clipping, logging.

    A model's own module builds it and says what its loss reads of a batch.

    Args:
        config: What the model is made of.
        optimizer: AdamW's settings.
        schedule: The learning rate over the run.
        init_from: A model folder or a checkpoint, Megatron's too, to take the first weights from; random ones when not
            given.
        compile: Compile each layer with torch.compile (worth it on GPUs).
        checkpoint_activations: Keep only each layer's input and compute the layer again in the backward pass:
            less memory, about a third more time.
    """

    model_type: str

    def __init__(
        self,
        config: GPTConfig | RetroConfig,
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
        self.model: GPT | Retro | None = None
        self.starts_fresh = True
        """False where the weights are going to come from a checkpoint, whatever `init_from` says."""
        self.totals = LossTotals()
        self.gradient_norm = torch.tensor(0.0)
        """Of the last optimizer step, before clipping."""
        self.loss_scale = torch.tensor(1.0)
        """The mean of the micro-batches' losses times this is the loss of the last optimizer step."""
        self.learning_rate = 0.0
        """Of the last optimizer step."""

    @property
    def data(self) -> TrainingData:
        """The trainer's data module."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    @property
    @abstractmethod
    def decoder(self) -> GPT:
        """The GPT that the built model is, or is built around."""

    @abstractmethod
    def build(self) -> GPT | Retro:
        """A new model, what is not trained frozen; on the meta device, as the device of the moment."""

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """The loss of a batch, with everything in it that the model reads."""

    def setup(self, stage: str) -> None:
        """Raises ValueError where model, data and trainer do not fit together."""
        config = decoder_of(self.config)
        name = "model.config" if config is self.config else "model.config.decoder"
        vocab_size, longest = self.data.tokenizer.vocab_size, config.max_position_embeddings
        if config.vocab_size < vocab_size:
            raise ValueError(
                f"{name}.vocab_size: expected at least the tokenizer's {vocab_size}, got {config.vocab_size}"
            )
        if self.data.sequence_length > longest:
            raise ValueError(
                f"data.sequence_length: expected at most {name}.max_position_embeddings ({longest}), "
                f"got {self.data.sequence_length}"
            )
        strategy = self.trainer.strategy
        if self.compile_layers and isinstance(strategy, ShardedStrategy) and strategy.tensor_parallel > 1:
            raise ValueError(
                f"model.compile: expected false with trainer.strategy.tensor_parallel {strategy.tensor_parallel}, got "
                "true; the gradients of compiled layers are not added up among the devices of a group"
            )
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                "trainer.precision: expected bf16-mixed, bf16-true or 32-true; 16-mixed cannot clip with fused AdamW"
            )

    def configure_model(self) -> None:
        """Build the model where it will live, sharded or not, as the strategy says; no process holds more than that.

        The first weights follow from the seed last given to torch alone: see first_weights.py.
        """
        if self.model is not None:
            return
        given = self.given_weights() if self.starts_fresh else {}
        with torch.device("meta"):
            self.model, whole = self.build(), self.build()
        self.model.checkpoint_activations = self.checkpoint_activations
        device, seed = torch.device("cpu"), torch.initial_seed()
        if self._trainer is not None:
            strategy = self._trainer.strategy
            seed = strategy.broadcast(seed)
            if isinstance(strategy, ShardedStrategy):
                device = strategy.share_out(self.model)
            elif not isinstance(strategy, FSDPStrategy):  # which takes its part of each layer from the CPU
                device = strategy.root_device
        self.model.to_empty(device=device)
        if self.starts_fresh:
            fill(self.model, whole, given, seed)
        if self.compile_layers:
            self.model.compile_layers()

    def given_weights(self) -> dict[str, Stored]:
        """The weights that the run does not begin with at random, by name.

        Raises FileNotFoundError or ValueError where they are not there, or those of another model.
        """
        if self.init_from is None:
            return {}
        path, own = Path(self.init_from), self.config
        chunk_length = own.chunk_length if isinstance(own, RetroConfig) else None
        config, stored = open_stored(path, decoder_of(own).vocab_size, chunk_length)
        if type(config) is not type(own):
            raise ValueError(f"model.init_from: {path} holds a {kind_of(config)}, expected a {kind_of(own)}")
        told = [
            f"{name} is {theirs} there and {ours} here"
            for name, theirs, ours in differences("", asdict(config), asdict(own))
            if name.rpartition(".")[2] not in WITHOUT_WEIGHTS
        ]
        if told:
            raise ValueError(f"model.init_from: {path} is another model than model.config: {'; '.join(told)}")
        return stored

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean token loss of one micro-batch."""
        return self.loss(batch).mean

    def start_evaluation(self, split: str) -> None:
        """Begin to evaluate on this split."""
        self.totals = LossTotals()

    def evaluate(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch of the split; its token losses (B, T) in nats come back, by what the model read."""
        losses = self.loss(batch).tokens
        self.totals.add(losses, batch.loss_mask)
        return {"gpt": losses}

    def results(self, split: str) -> dict[str, float]:
        """loss, perplexity and bits_per_byte over all batches of all devices."""
        return self.totals.result(self.sum_over_devices, self.data.bytes_per_token(split))

    def sum_over_devices(self, sums: Tensor) -> Tensor:
        """Their sums over all devices."""
        strategy = self.trainer.strategy
        return strategy.reduce(sums.to(strategy.root_device), reduce_op="sum")  # pyright: ignore[reportReturnType]

    def say(self, line: str) -> None:
        """Print a line, on the first process."""
        if self.trainer.is_global_zero:
            print(line, flush=True)

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self.start_evaluation("validation")

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch; see `evaluate`."""
        return self.evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the results as val/..."""
        if not self.trainer.sanity_checking:
            self._log_results("val", "validation")

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self.start_evaluation("test")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch; see `evaluate`."""
        return self.evaluate(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the results as test/..."""
        self._log_results("test", "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """(B, T) float32: every token's loss in nats."""
        return self.loss(batch).tokens

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make this micro-batch's randomness (dropout) a function of where the run stands and of nothing before it.

        So a resumed run draws what the uninterrupted one would have drawn, with nothing to save, on any device.
        """
        place = (
            self.data.seed,
            self.trainer.global_step,
            batch_idx % self.trainer.accumulate_grad_batches,
            self.data.place[0],
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
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy):
            assert isinstance(strategy.model, FullyShardedDataParallel)
            # Its gradients are plain tensors that do not say how they are shared out.
            self.gradient_norm = strategy.model.clip_grad_norm_(gradient_clip_val or math.inf)
        else:
            self.gradient_norm = clip_gradients(self.parameters(), gradient_clip_val or None)
        self.learning_rate = optimizer.param_groups[0]["lr"]

    def flops_per_token(self, sequence_length: int) -> int:
        """FLOPs of training on one token, of the whole model however its weights are shared out."""
        return empty_model(self.config).flops_per_token(sequence_length)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must not change, section by section; `config` no other use of the weights either."""
        return {
            "config": asdict(self.config),
            "optimizer": asdict(self.optimizer_config),
            "schedule": asdict(self.schedule),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what `load_model` needs, and what a resumed run must not change."""
        checkpoint["retrolit"] = {"model_type": self.model_type} | self.settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError where a resumed run changes settings, or a checkpoint is of another model."""
        before = checkpoint.get("retrolit")
        if before is None or before["model_type"] != self.model_type:
            found = "none of ours" if before is None else before["model_type"]
            raise ValueError(f"ckpt_path: expected a checkpoint of a {self.model_type}, got {found}")
        now = self.settings()
        sections = now if self.trainer.training else ("config",)
        refuse_changes("model", {name: before.get(name) for name in sections}, {name: now[name] for name in sections})

    def _log_results(self, prefix: str, split: str) -> None:
        row = {f"{prefix}/{name}": value for name, value in self.results(split).items()}
        log_row(self.trainer, row)
        self.log_dict(row, logger=False, sync_dist=True)
