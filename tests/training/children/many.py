"""What one of several processes of a test runs: the same small trainings, one after the other, under a strategy."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset

from retrolit.data.batch import Batch
from retrolit.training import (
    LanguageModule,
    MetricsFile,
    PretrainingData,
    RetroModule,
    TrainingData,
    TrainingMetrics,
)


@dataclass
class Case:
    """A run of a few steps."""

    name: str
    module: Callable[[], LanguageModule]
    data: Callable[[], TrainingData]
    trainer: dict[str, Any] = field(default_factory=dict)


class Compiled(RetroModule):
    """With what torch.compile traces, run as it is."""

    def configure_model(self) -> None:
        super().configure_model()
        self.retro.compile_layers(backend="eager")


class Replies(PretrainingData):
    """Samples of which some have hardly a trained token, and those of whole micro-batches no neighbor."""

    def training_samples(self) -> _Replies:
        return _Replies(super().training_samples())  # pyright: ignore[reportReturnType]

    def accounting(self) -> list[str]:
        return []


class _Replies(Dataset[Batch]):
    def __init__(self, samples: Dataset[Batch]) -> None:
        self.samples = samples

    def __getitem__(self, numbers) -> Batch:
        batch = self.samples[numbers]
        begins = torch.tensor([[30, 5, 17, 26][number % 4] for number in numbers])
        batch.loss_mask = (torch.arange(batch.tokens.shape[1]) >= begins[:, None]).float()
        if batch.neighbor_mask is not None:
            batch.neighbor_mask[[number % 4 >= 2 for number in numbers]] = False
        return batch


class Weights(L.Callback):
    """Keeps all weights, whole, before the first step and after the last."""

    def on_train_start(self, trainer, pl_module):
        self.first = whole(pl_module)

    def on_train_end(self, trainer, pl_module):
        self.last = whole(pl_module)


def whole(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: (w.full_tensor() if isinstance(w, DTensor) else w).detach().clone() for name, w in named}


def train(case: Case, folder: Path, **trainer: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Run a case; its first and last weights come back, its metrics lie in the folder."""
    weights = Weights()
    settings = {
        "default_root_dir": folder, "max_steps": 3, "accelerator": "cpu", "devices": 1,
        "logger": [MetricsFile(folder)], "callbacks": [TrainingMetrics(), weights], "log_every_n_steps": 1,
        "num_sanity_val_steps": 0, "gradient_clip_val": 0.5, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False,
    }  # fmt: skip
    module = case.module()
    torch.manual_seed(5)  # the first weights
    L.Trainer(**(settings | case.trainer | trainer)).fit(module, case.data())
    return weights.first, weights.last


def run(pickled: Path, rank: int, processes: int, port: int) -> None:
    """The cases in a file, each under each strategy, as one of several processes that torchrun has started."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    os.environ.pop("PL_GLOBAL_SEED", None)  # of an earlier test's run: Lightning would draw the first weights from it
    torch.set_num_threads(1)
    cases, strategies = pickle.loads(pickled.read_bytes())
    for label, strategy in strategies.items():
        for case in cases:
            folder = pickled.parent / f"{case.name} {label}"
            weights = train(case, folder, devices=processes, strategy=strategy())
            if rank == 0:
                torch.save(weights, folder / "weights.pt")
    torch.distributed.destroy_process_group()
