"""Real runs, small: sixty documents of made-up words as bytes, a GPT of two layers, a trainer like the CLI's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch

from retrolit.data import DataConfig
from retrolit.models import GPT, GPTConfig, Retro
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.training import (
    AtomicCheckpointIO,
    Checkpoints,
    GPTModule,
    MetricsFile,
    OptimizerConfig,
    PretrainingData,
    ScheduleConfig,
    TrainingMetrics,
)
from retrolit.training.first_weights import draw


@pytest.fixture(scope="session")
def data_config(tmp_path_factory) -> DataConfig:
    """Prepared data of one corpus."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(50)]
    documents = [" ".join(draw.choices(words, k=draw.randint(5, 60))) for _ in range(60)]
    (folder / "words.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return DataConfig(
        folder=str(folder / "prepared"),
        tokens=TokensConfig(
            corpora={"words": CorpusConfig(str(folder / "words.jsonl"))},
            tokenizer=TokenizerConfig(type="bytes"),
            splits={"train": 0.7, "validation": 0.15, "test": 0.15},
        ),
    )


@pytest.fixture
def make_data(data_config) -> Callable[..., PretrainingData]:
    def make(**changes) -> PretrainingData:
        settings = {"sequence_length": 32, "global_batch_size": 8, "micro_batch_size": 4, "chunk_length": 8}
        return PretrainingData(**({"data": data_config} | settings | changes))

    return make


@pytest.fixture
def drawn() -> Callable[[GPT | Retro], GPT | Retro]:
    """Gives a model the weights that a run begins with after torch.manual_seed(5)."""

    def fill(model: GPT | Retro) -> GPT | Retro:
        with torch.no_grad():
            for name, part in model.named_modules():
                draw(name, part, model, seed=5)
        return model

    return fill


@pytest.fixture
def make_module() -> Callable[..., GPTModule]:
    def make(config: dict | None = None, schedule: ScheduleConfig | None = None, **changes) -> GPTModule:
        sizes = {"vocab_size": 257, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2}
        gpt = GPTConfig(**(sizes | {"max_position_embeddings": 32} | (config or {})))
        optimizer = OptimizerConfig(lr=1e-2)
        torch.manual_seed(5)  # the first weights
        return GPTModule(gpt, **({"optimizer": optimizer, "schedule": schedule or ScheduleConfig(warmup=3)} | changes))

    return make


@pytest.fixture
def make_trainer() -> Callable[..., L.Trainer]:
    def make(folder: Path, *callbacks: L.Callback, every: int = 4, **changes) -> L.Trainer:
        settings = {
            "default_root_dir": folder,
            "max_steps": 12,
            "accelerator": "cpu",
            "devices": 1,
            "logger": [MetricsFile(folder)],
            "plugins": [AtomicCheckpointIO()],
            "callbacks": [TrainingMetrics(), *callbacks, Checkpoints(every=every)],
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "gradient_clip_val": 1.0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return L.Trainer(**(settings | changes))

    return make


@pytest.fixture
def rows() -> Callable[..., dict[int, dict]]:
    """The last row of each step in a run's metrics.jsonl that has this metric."""

    def read(folder: Path, name: str = "train/loss") -> dict[int, dict]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return {row["step"]: row for row in map(json.loads, lines) if name in row}

    return read
