"""Runs through the command line, small: sixty documents of made-up words as bytes, a GPT of two layers."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port

RECIPE = """\
model:
  class_path: GPTModule
  init_args:
    config:
      vocab_size: 257
      hidden_size: 16
      num_layers: 2
      num_attention_heads: 2
      max_position_embeddings: 32
      attention_dropout: 0.1
      hidden_dropout: 0.1
    optimizer: {lr: 0.01}
    schedule: {warmup: 3}
data:
  class_path: PretrainingData
  init_args:
    data: data.yaml
    sequence_length: 32
    global_batch_size: 8
    micro_batch_size: 4
    chunk_length: 8
trainer:
  default_root_dir: runs/small
  max_steps: 12
  val_check_interval: 3
  gradient_clip_val: 1.0
  log_every_n_steps: 1
  accelerator: cpu
checkpoints: {every: 4}
samples: {max_new_tokens: 20}
"""

DATA = """\
folder: prepared
tokens:
  corpora: {words: {source: words.jsonl}}
  tokenizer: {type: bytes}
  splits: {train: 0.7, validation: 0.15, test: 0.15}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    """A recipe with its data.yaml, in a folder that is the current one; runs lie in runs/small."""
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(50)]
    documents = [" ".join(draw.choices(words, k=draw.randint(5, 60))) for _ in range(60)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    (tmp_path / "data.yaml").write_text(DATA)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return Path("recipe.yaml")


@pytest.fixture
def metrics() -> Callable[..., dict[int, float]]:
    """One metric of a run by step, as its metrics.jsonl has it last."""

    def read(name: str = "train/loss", folder: str = "runs/small") -> dict[int, float]:
        rows = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row[name] for row in rows if name in row}

    return read


@pytest.fixture
def retrolit_process(monkeypatch) -> Callable[..., int]:
    """`retrolit ARGUMENTS` in a process of its own, which may be killed; gives its exit code, -9 for SIGKILL.

    With `processes` it is started so many times, as torchrun would start it; the exit code is that of the first one.
    With `said` what it prints goes to that file: the server's own streams are those of the test that started it.
    Forked from a server that has only imported things: a process that has trained before cannot be forked safely.
    """
    monkeypatch.syspath_prepend(Path(__file__).parent / "children")
    command = importlib.import_module("command")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrolit.cli.fit"])

    def run(*arguments: str, processes: int = 1, said: str | None = None) -> int:
        texts = [str(argument) for argument in arguments]
        port = find_free_network_port()
        places = [(texts, rank, processes, port, said) for rank in range(processes)]
        started = [context.Process(target=command.run, args=place) for place in places]
        for process in started:
            process.start()
        for process in started:
            process.join(timeout=120)
        codes = [process.exitcode for process in started]
        if codes[0] is None or None in codes:
            for process in started:
                process.kill()
            pytest.fail(f"retrolit {' '.join(texts)} did not end within two minutes: {codes}")
        return codes[0]

    return run
