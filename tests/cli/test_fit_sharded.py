"""Runs whose model two processes share: stopped anywhere, gone on with by any number of processes, and finished.

What they have to reproduce is the run of one process. Without dropout, whose draws differ by process, it is the same
but for the order of sums.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from retrolit import load_model
from retrolit.cli.main import main
from retrolit.evaluation.results_file import read_results

CONFIG = ["--model.config.attention_dropout", 0, "--model.config.hidden_dropout", 0, "--model.config.vocab_size", 258]
EVERY_FIVE = ["--checkpoints.every", 5]
SHARED = """\
trainer:
  strategy: {class_path: retrolit.training.ShardedStrategy, init_args: {tensor_parallel: TENSOR_PARALLEL}}
"""


@pytest.fixture
def fit(recipe, retrolit_process):
    """`retrolit fit` by one process, or by two that share the model; `callback` is one that ends it."""
    for name, number in (("sharded", 1), ("parallel", 2)):
        Path(f"{name}.yaml").write_text(SHARED.replace("TENSOR_PARALLEL", str(number)))

    def run(folder, *options, overlay=None, callback=None, processes=2, said=None):
        command = ["fit", "-c", recipe, *CONFIG, *EVERY_FIVE, "--trainer.default_root_dir", folder, *options]
        if overlay is not None:
            command += ["-c", f"{overlay}.yaml", "--trainer.devices", processes]
        if callback is not None:
            name, arguments = callback
            content = {"class_path": f"interruptions.{name}", "init_args": arguments}
            Path("interrupt.yaml").write_text(json.dumps({"trainer": {"callbacks": [content]}}))
            command += ["-c", "interrupt.yaml"]
        return retrolit_process(*command, processes=1 if overlay is None else processes, said=said)

    return run


def test_stopped_and_gone_on_with_by_other_processes(fit, metrics, retrolit_process, capsys):
    assert fit("runs/one") == 0
    expected = load_model("runs/one/model")

    # Two share the model: killed when all of step 10 is written, and only its name is missing.
    kill = ("KillAtRename", {"name": "step-00000010.ckpt"})
    assert fit("runs/many", overlay="sharded", callback=kill) == -signal.SIGKILL
    assert _checkpoints("runs/many") == {"step-00000005.ckpt", ".step-00000010.ckpt.partial"}
    # Two share each product, and so read the same samples: from step 5, in twice as many batches, until one is told
    # to end in the second batch of a step.
    stop = ("SignalAt", {"step": 10, "micro_batch": 1, "name": "SIGTERM", "rank": 1})
    assert fit("runs/many", overlay="parallel", callback=stop) == 143
    assert _checkpoints("runs/many") == {"step-00000010.ckpt", "step-00000011.ckpt"}
    # One process, that had no part in all this.
    assert fit("runs/many") == 0
    _check(expected, metrics, "runs/many")

    # From the file of one process to two.
    assert fit("runs/file", callback=("SignalAt", {"step": 7})) == -signal.SIGKILL
    assert fit("runs/file", "--checkpoints.keep", 1, overlay="sharded") == 0
    _check(expected, metrics, "runs/file")
    assert _checkpoints("runs/file") == {"step-00000012.ckpt"}

    # What they leave is used as that of one is.
    assert retrolit_process("test", "-c", "runs/file/config.yaml", processes=2) == 0
    _check_verbs(capsys)


def test_what_cannot_be_gone_on_with_is_said(fit):
    """One process with the strategy of many."""
    alone = {"overlay": "sharded", "processes": 1, "said": "said.txt"}
    assert fit("runs/alone", callback=("SmallDisk", {"size": 30_000}), **alone) == 2
    said = Path("said.txt").read_text().splitlines()[-1]
    assert "step-00000005.ckpt: the checkpoint could not be written (" in said
    assert said.endswith("the ones before are kept")
    assert fit("runs/alone", **alone) == 0
    assert _checkpoints("runs/alone") == {"step-00000010.ckpt", "step-00000012.ckpt"}
    part = Path("runs/alone/checkpoints/step-00000012.ckpt/__0_0.distcp")
    part.write_bytes(part.read_bytes()[:-1])
    assert fit("runs/alone", "--model.optimizer.lr", 0.02, **alone) == 2
    said = Path("said.txt").read_text()
    assert "step-00000012.ckpt is damaged; going on from the one before" in said
    assert "model.optimizer.lr was 0.01, is now 0.02" in said
    # The damaged one is written again, as one file, in its place.
    assert fit("runs/alone") == 0
    assert Path("runs/alone/checkpoints/step-00000012.ckpt").is_file()


def _checkpoints(folder):
    return {path.name for path in Path(folder, "checkpoints").iterdir()}


def _check(expected, metrics, folder):
    for name in ("train/loss", "train/gradient_norm", "val/loss"):
        values, reference = metrics(name, folder), metrics(name, "runs/one")
        assert values.keys() == reference.keys()
        for step, value in reference.items():
            assert values[step] == pytest.approx(value, rel=1e-4), (name, step)
    model = load_model(f"{folder}/model")
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-4), name


def _check_verbs(capsys):
    assert main(["test", "-c", "runs/one/config.yaml"]) == 0
    one, two = (read_results(f"runs/{run}")["test"] for run in ("one", "file"))
    assert two["tokens"] == one["tokens"]
    assert two["bits_per_byte"]["gpt"] == pytest.approx(one["bits_per_byte"]["gpt"], rel=1e-4)

    checkpoint = "runs/file/checkpoints/step-00000012.ckpt"
    assert main(["convert", "consolidate", checkpoint, "whole", "--tokenizer", "runs/file/model"]) == 0
    assert "28 tensors of a sharded checkpoint" in capsys.readouterr().out
    whole, written = load_model("whole").state_dict(), load_model("runs/file/model").state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in written.items())
    texts = set()
    for model in (["whole"], ["runs/one/model"], [checkpoint, "--tokenizer", "whole"]):
        assert main(["generate", *model, "--prompt", "abc", "--max_new_tokens", "8", "--temperature", "0"]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1
    assert main(["generate", checkpoint, "--prompt", "abc"]) == 2
    assert "a checkpoint has no tokenizer" in capsys.readouterr().err
    assert main(["report", "runs/file"]) == 0
