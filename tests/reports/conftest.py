"""The folders of a Retro's run and of an evaluation, with numbers of random tokens and texts that mean mischief."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrolit.evaluation.results_file import write_results
from retrolit.evaluation.token_losses import TokenLosses
from retrolit.storage import write_json

MISCHIEF = "<script>alert('&')</script> | ```<img src=http://nowhere.example/x.png>"

CONFIG = """\
seed_everything: 7
trainer: {max_steps: 30}
model:
  class_path: retrolit.training.RetroModule
  init_args: {config: {decoder: {num_layers: 2, hidden_size: 16}, retro_layers: [2]}, optimizer: {lr: 0.01}}
data: {init_args: {data: {folder: nowhere}, sequence_length: 32, global_batch_size: 8, num_neighbors: 2}}
samples: {prompts: ["<b>"]}
"""


def split_results() -> dict:
    """What `retrolit test` writes of forty random tokens."""
    draw = np.random.default_rng(3)
    nats = {name: draw.random(40).astype(np.float32) for name in ("retrieved", "none", "random", "gpt")}
    losses = TokenLosses(
        nats,
        num_bytes=np.full(40, 4.0),
        document=np.repeat(np.arange(4), 10),
        num_words=np.full(4, 8),
        overlap=draw.random(40).astype(np.float32),
        run=draw.integers(-1, 9, 40).astype(np.int16),
    )
    neighbor = {"source": MISCHIEF, "distance": 0.25, "chunk": "the copper mill", "continuation": "falls silent"}
    example = {"bits_saved": 4.5, "chunk": 3, "source": "words.jsonl:1", "query": f"a copper {MISCHIEF}",
               "text": "and falls", "neighbors": [neighbor]}  # fmt: skip
    return {
        "weights": {"path": "runs/x/model", "fingerprint": "ab12"},
        "data": {"folder": "nowhere", "tokens": "cd34", "num_neighbors": 2},
        "leakage": {"documents": 1, "named": [f"copy of {MISCHIEF}"]},
        "num_resamples": 20,
        **losses.results(20),
        "neighbor_examples": {"best": [example], "worst": [example | {"bits_saved": -2.0}]},
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    rows: list[dict] = [
        {"step": step, "train/loss": 9 / step, "train/bits_per_byte": 3 / step, "train/consumed_tokens": 100 * step,
         "speed/tokens_per_second": 50.0 + step, "speed/data_wait_share": 0.01}
        for step in (10, 20, 20, 30)
    ]  # fmt: skip
    shares = {"encoder": 0.25, "cross_attention": 0.125, "decoder": 0.5, "optimizer": 0.115}
    rows[3] |= {f"speed/{part}_share": share for part, share in shares.items()}
    rows[1]["train/loss"] = "nan"  # written again by the run that went on
    rows += [{"step": step, "val/loss": 2.0, "val/bits_per_byte": 1.5, "val/bits_per_byte_none": 1.5 + step / 100,
              "val/bits_per_byte_random": 1.75, "val/bits_per_byte_gpt": 1.625} for step in (15, 30)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 40, "tr')
    samples = [{"step": step, "prompt": "The ", "text": f"{step} {MISCHIEF}"} for step in (15, 30)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    write_json(
        folder / "run.json", {"made_by": "retrolit", "machine": {"device": MISCHIEF}, "data": {"tokenizer": "e5"}}
    )
    write_results(folder, "test", split_results())
    return folder


@pytest.fixture
def evaluation_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluations" / "small"
    task = {
        "task": "nq", "title": "NQ", "file": "nq.json", "examples": 2, "of": 9, "settings": {"model": "f6"},
        "scores": {"exact_match": 50.0, "f1": 62.5}, "published": {"exact_match": {"InstructRetro 43B": 38.9}},
    }  # fmt: skip
    write_json(folder / "results.json", {"model": "runs/small/model", "tasks": {"nq": task}})
    scores = [{"id": f"q{i}", "question": "who?", "prediction": MISCHIEF, "answers": ["Bo"], "exact_match": float(i)}
              for i in range(2)]  # fmt: skip
    read = [{"id": f"q{i}", "prompt": "", "text": "", "finish_reason": "eod", "contexts": ["Ulm"],
             "neighbors": [{"start": 0, "end": 64, "sources": ["wiki:12"]}]} for i in range(2)]  # fmt: skip
    (folder / "nq").mkdir()
    (folder / "nq" / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scores))
    (folder / "nq" / "predictions-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in read))
    return folder
