"""TrainingData: what reading samples under Lightning is the same for all kinds of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import replace
from typing import Any, Protocol

import lightning as L
from torch.utils.data import Dataset

from retrolit.data.batch import Batch
from retrolit.data.loading import Loader, Numbers, evaluation_numbers, training_numbers
from retrolit.tokens import Tokenizer
from retrolit.tokens.chat_template import ChatTemplate
from retrolit.training.settings import refuse_changes


class EvaluationSet(Sized, Protocol):
    """All samples of a split in order, by number; numbers past the end give samples that are masked whole."""

    def __getitem__(self, numbers: Any) -> Batch: ...


class TrainingData(L.LightningDataModule, ABC):
    """Samples by their global number, divided into optimizer steps, micro-batches and devices.

    Which sample is read when follows from the optimizer step alone, so a run goes on anywhere. What the samples are,
    and how they are prepared, the two kinds say: PretrainingData and InstructionData.

    Args:
        sequence_length: Tokens of a sample (T).
        global_batch_size: Samples of one optimizer step, over all devices.
        micro_batch_size: Samples a device takes at once; as much as possible when not given.
        chunk_length: Tokens of a chunk (M).
        num_neighbors: Neighbors that are read for every chunk (K); none when 0.
        num_retrieved_chunks: Chunks of a neighbor.
        seed: Decides the order of the samples.
        num_workers: Processes that read ahead.
    """

    splits_setting: str
    """Where a data.yaml says how large the splits are."""

    def __init__(
        self,
        *,
        sequence_length: int,
        global_batch_size: int,
        micro_batch_size: int | None,
        chunk_length: int,
        num_neighbors: int,
        num_retrieved_chunks: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        for name, value in (("sequence_length", sequence_length), ("global_batch_size", global_batch_size),
                            ("micro_batch_size", micro_batch_size or 1), ("chunk_length", chunk_length),
                            ("num_retrieved_chunks", num_retrieved_chunks)):  # fmt: skip
            if value < 1:
                raise ValueError(f"data.{name}: expected at least 1, got {value}")
        if num_neighbors < 0:
            raise ValueError(f"data.num_neighbors: expected at least 0, got {num_neighbors}")
        if sequence_length % chunk_length:
            raise ValueError(
                f"data.sequence_length: expected a multiple of chunk_length ({chunk_length}), got {sequence_length}"
            )
        self.sequence_length = sequence_length
        self.global_batch_size = global_batch_size
        self.requested_micro_batch_size = micro_batch_size
        self.chunk_length = chunk_length
        self.num_neighbors = num_neighbors
        self.num_retrieved_chunks = num_retrieved_chunks
        self.seed = seed
        self.num_workers = num_workers
        self.tokenizer: Tokenizer
        self.fingerprint = ""
        """Of the prepared data."""
        self.train_loader: Loader | None = None
        self._trainer_set: L.Trainer | None = None

    # ---- what the kinds say

    @abstractmethod
    def open(self) -> None:
        """Open what is prepared. Raises ValueError where it does not fit the settings."""

    @abstractmethod
    def training_samples(self) -> Dataset[Batch]:
        """The endless training samples, by global number."""

    @abstractmethod
    def evaluation_samples(self, split: str) -> EvaluationSet:
        """All samples of the validation or test split, in order."""

    @abstractmethod
    def bytes_per_token(self, split: str) -> float:
        """Bytes of text that a token whose label counts stands for on average."""

    @abstractmethod
    def accounting(self) -> list[str]:
        """Lines for people: what will be trained on."""

    @property
    @abstractmethod
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all devices."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimizer steps that read as many samples as there are."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How the samples' conversations are written; None where they are none."""
        return None

    # ---- places

    def setup(self, stage: str) -> None:
        """Open what is prepared.

        Raises ValueError where it does not fit the settings, or the batch sizes do not go into each other.
        """
        self.open()
        if stage == "fit" and self._trainer_set is not self.trainer:
            self._set_accumulation()
            self._trainer_set = self.trainer

    @property
    def place(self) -> tuple[int, int]:
        """This process among those that read different data, and their number."""
        assert self.trainer is not None
        # Not world_size: devices that share a model by tensor parallelism read the same data.
        place = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}
        return place.get("rank", 0), place.get("num_replicas", 1)

    @property
    def micro_batch_size(self) -> int:
        """Samples that one device takes at once."""
        if self.requested_micro_batch_size is not None:
            return self.requested_micro_batch_size
        return max(1, self.global_batch_size // self.place[1])

    # ---- loaders

    def evaluation_numbers(self, split: str) -> list[Numbers]:
        """Which of those samples this process reads in each of its batches."""
        rank, world_size = self.place
        number, size = len(self.evaluation_samples(split)), self.micro_batch_size
        return list(evaluation_numbers(number, micro_batch_size=size, rank=rank, world_size=world_size))

    def train_dataloader(self) -> Loader:
        """From the optimizer step where the run stands to its last."""
        assert self.trainer is not None
        trainer, (rank, world_size) = self.trainer, self.place
        if trainer.max_steps < 1:
            raise ValueError(
                f"trainer.max_steps: expected the number of optimizer steps to train, got {trainer.max_steps}; "
                f"one epoch is {self.steps_per_epoch:,} steps"
            )
        self.train_loader = Loader(
            self.training_samples(),
            # The step is looked up when the reading begins: a checkpoint may be restored after this call.
            lambda: training_numbers(
                trainer.global_step,
                trainer.max_steps,
                global_batch_size=self.global_batch_size,
                micro_batch_size=self.micro_batch_size,
                rank=rank,
                world_size=world_size,
            ),
            length=trainer.max_steps * trainer.accumulate_grad_batches,
            num_workers=self.num_workers,
        )
        return self.train_loader

    def val_dataloader(self) -> Loader | list[Loader]:
        """The validation split in order; nothing where it is empty."""
        loader = self._evaluation_loader("validation")
        return loader if len(loader) else []

    def test_dataloader(self) -> Loader:
        """The test split in order."""
        loader = self._evaluation_loader("test")
        if not len(loader):
            raise ValueError(
                "the test split holds no tokens; give it a larger share in the data's "
                f"{self.splits_setting}, or more documents"
            )
        return loader

    def predict_dataloader(self) -> Loader:
        """As test_dataloader."""
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The loss mask in float32: in bf16-true Lightning makes it bfloat16, which cannot count beyond 256."""
        return replace(batch, loss_mask=batch.loss_mask.float())

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {
            "sequence_length": self.sequence_length,
            "global_batch_size": self.global_batch_size,
            "chunk_length": self.chunk_length,
            "seed": self.seed,
            "prepared data": self.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where a resumed run changes the data or how they are read."""
        assert self.trainer is not None
        if self.trainer.state.fn == "fit":
            refuse_changes("data", state_dict, self.state_dict())

    def _evaluation_loader(self, split: str) -> Loader:
        numbers = self.evaluation_numbers(split)
        samples: Any = self.evaluation_samples(split)
        return Loader(samples, lambda: numbers, len(numbers), self.num_workers)

    def _set_accumulation(self) -> None:
        assert self.trainer is not None
        replicas, micro = self.place[1], self.micro_batch_size
        accumulation, rest = divmod(self.global_batch_size, micro * replicas)
        if rest or not accumulation:
            raise ValueError(
                f"data.global_batch_size: expected a multiple of micro_batch_size x devices = {micro} x {replicas} "
                f"= {micro * replicas}, got {self.global_batch_size}"
            )
        if self.trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches: it follows from data.global_batch_size and is {accumulation} here; "
                f"expected it to be left out, got {self.trainer.accumulate_grad_batches}"
            )
        self.trainer.accumulate_grad_batches = accumulation
        # Lightning counts micro-batches between validations; people count steps, and may stop before the first.
        if isinstance(self.trainer.val_check_interval, int):
            steps = min(self.trainer.val_check_interval, max(1, self.trainer.max_steps))
            self.trainer.val_check_interval = steps * accumulation
