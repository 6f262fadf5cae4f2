"""`fit` with InstructRetroModule and InstructionData: from a Retro and conversations to a model to talk to."""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

from retrolit import load_model, save_model
from retrolit.cli.main import main
from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.tokens import ByteTokenizer
from retrolit.tokens.chat_template import load_chat_template

SIZES = {"vocab_size": 257, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run of three steps, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    save_model(Retro(RetroConfig(GPTConfig(**SIZES), retro_layers=[2], chunk_length=8)), "retro", ByteTokenizer())
    turns = [(f"Is {n} odd?", "Yes." if n % 2 else "No, it is even.") for n in range(40)]
    records = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in turns
    ]
    Path("talk.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = {
        "folder": "prepared",
        "conversations": {
            "corpora": {"talk": {"source": "talk.jsonl"}}, "tokenizer": {"type": "bytes"}, "max_length": 64,
            "template": "plain", "splits": {"train": 0.8, "validation": 0.2, "test": 0.0},
        },
    }  # fmt: skip
    settings = {
        "model": {
            "class_path": "InstructRetroModule",
            "init_args": {
                "init_from": "retro", "lora": {"rank": 2},
                "config": {"decoder": SIZES, "retro_layers": [2], "chunk_length": 8},
            },
        },
        "data": {
            "class_path": "InstructionData",
            "init_args": {
                "data": data, "sequence_length": 64, "global_batch_size": 4, "packed": True, "chunk_length": 8,
            },
        },
        "trainer": {
            "default_root_dir": "run", "max_steps": 3, "val_check_interval": 3, "accelerator": "cpu",
            "log_every_n_steps": 1,
        },
        "samples": {"prompts": []},
    }  # fmt: skip
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    return ["fit", "-c", "recipe.yaml"]


def test_from_conversations_to_a_model_that_can_be_talked_to(recipe: list[str], capsys, monkeypatch) -> None:
    assert main(recipe) == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in row for row in rows) == 3
    assert any("val/loss" in row for row in rows)
    before, after = load_model("retro").state_dict(), load_model("run/model").state_dict()
    assert before.keys() == after.keys()  # adapters are merged
    assert not torch.equal(before["decoder.layers.0.mlp.up.weight"], after["decoder.layers.0.mlp.up.weight"])
    assert torch.equal(before["encoder.layers.0.mlp.up.weight"], after["encoder.layers.0.mlp.up.weight"])
    assert load_chat_template("run/model").settings == load_chat_template("plain").settings
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Is 3 odd?\n")))
    capsys.readouterr()
    assert main(["chat", "run/model", "--max_new_tokens", "4", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.endswith("\n")


def test_killed_and_started_again_it_is_the_run_that_was_never_killed(recipe: list[str], retrolit_process) -> None:
    """Bit for bit: losses, validation and what is tuned; the kill comes after the checkpoint of step 4, in step 6."""
    options = [*recipe, "--data.micro_batch_size", "2", "--trainer.max_steps", "8", "--checkpoints.every", "4"]

    def outcome(folder: str) -> tuple[dict[tuple[int, str], float], dict[str, torch.Tensor]]:
        rows = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        losses = {(row["step"], name): row[name] for row in rows for name in ("train/loss", "val/loss") if name in row}
        return losses, load_model(f"{folder}/model").state_dict()

    assert main([*options, "--trainer.default_root_dir", "whole"]) == 0
    Path("interrupt.yaml").write_text(
        "trainer: {callbacks: [{class_path: interruptions.SignalAt, init_args: {step: 6, micro_batch: 1}}]}\n"
    )
    assert retrolit_process(*options, "-c", "interrupt.yaml") == -signal.SIGKILL
    assert not Path("run/model").exists()
    assert main(options) == 0
    (losses, weights), (expected, expected_weights) = outcome("run"), outcome("whole")
    assert losses == expected
    assert sum(name == "train/loss" for _, name in losses) == 8
    assert len(set(losses.values())) > 8
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected_weights[name]), name
