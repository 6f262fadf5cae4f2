"""A run that is killed anywhere and started again is the run that was never killed, bit for bit."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch

RUN = Path("runs/small")


@pytest.fixture
def overlay():
    """Adds the callback that interrupts a run: -c interrupt.yaml."""

    def write(step: int, micro_batch: int = 0, name: str = "SIGKILL") -> None:
        Path("interrupt.yaml").write_text(
            "trainer:\n  callbacks:\n    - class_path: interruptions.SignalAt\n"
            f"      init_args: {{step: {step}, micro_batch: {micro_batch}, name: {name}}}\n"
        )

    return write


@pytest.fixture(scope="module")
def uninterrupted():
    """What a run that was left alone ended with; filled by the first test that asks."""
    return {}


@pytest.fixture
def expected(uninterrupted, recipe, retrolit_process, metrics):
    if not uninterrupted:
        assert retrolit_process("fit", "-c", recipe) == 0
        uninterrupted.update(_outcome(metrics))
        shutil.rmtree(RUN)
    return uninterrupted


def _outcome(metrics):
    checkpoint = torch.load(RUN / "checkpoints/step-00000012.ckpt", weights_only=True)
    return {
        "train/loss": metrics("train/loss"),
        "val/loss": metrics("val/loss"),
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"][0]["state"],
    }


def _check_same_bits(outcome, expected):
    assert outcome["train/loss"] == expected["train/loss"]
    assert len(expected["train/loss"]) == 12
    assert outcome["val/loss"] == expected["val/loss"]
    assert outcome["weights"].keys() == expected["weights"].keys()
    for name, tensor in outcome["weights"].items():
        assert torch.equal(tensor, expected["weights"][name]), name
    for number, state in outcome["optimizer"].items():
        for key, tensor in state.items():
            assert torch.equal(tensor, expected["optimizer"][number][key]), (number, key)


# A checkpoint is written after steps 4, 8 and 12, a validation runs after 3, 6, 9 and 12. Micro-batch 1 of 2 is the
# middle of an accumulation; step 8 is killed right after its checkpoint.
@pytest.mark.parametrize(
    ("step", "micro_batch", "num_workers"), [(3, 0, 0), (5, 1, 0), (6, 0, 2), (8, 0, 0), (11, 1, 2)]
)
def test_killed_and_started_again(step, micro_batch, num_workers, expected, recipe, overlay, retrolit_process, metrics):
    overlay(step, micro_batch)
    command = ["fit", "-c", recipe, "--data.num_workers", num_workers]
    assert retrolit_process(*command, "-c", "interrupt.yaml") == -signal.SIGKILL
    assert not (RUN / "model").exists()
    assert retrolit_process(*command) == 0
    assert (RUN / "model/model.safetensors").exists()
    _check_same_bits(_outcome(metrics), expected)


def test_killed_twice(expected, recipe, overlay, retrolit_process, metrics):
    for step, micro_batch in ((5, 0), (10, 1)):
        overlay(step, micro_batch)
        assert retrolit_process("fit", "-c", recipe, "-c", "interrupt.yaml") == -signal.SIGKILL
    assert retrolit_process("fit", "-c", recipe) == 0
    _check_same_bits(_outcome(metrics), expected)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_sigterm_saves_the_last_whole_step(micro_batch, expected, recipe, overlay, retrolit_process, metrics):
    overlay(6, micro_batch, "SIGTERM")
    assert retrolit_process("fit", "-c", recipe, "-c", "interrupt.yaml") == 143
    # The signal is heeded when its micro-batch is done; the second one completes step 7.
    assert max(path.name for path in (RUN / "checkpoints").iterdir()) == f"step-0000000{6 + micro_batch}.ckpt"
    assert retrolit_process("fit", "-c", recipe) == 0
    _check_same_bits(_outcome(metrics), expected)


def test_two_processes_learn_what_one_learns(recipe, retrolit_process, metrics):
    """Without dropout, whose draws differ by process, the losses agree but for the order of sums."""
    command = ["fit", "-c", recipe, "--model.config.attention_dropout", 0, "--model.config.hidden_dropout", 0]
    assert retrolit_process(*command) == 0
    losses = {name: metrics(name) for name in ("train/loss", "train/gradient_norm", "val/loss")}
    command += ["--trainer.default_root_dir", "runs/two", "--trainer.strategy", "ddp_fork", "--trainer.devices", 2]
    command += ["--data.micro_batch_size", 2]
    assert retrolit_process(*command) == 0
    for name, values in losses.items():
        both = metrics(name, folder="runs/two")
        assert both.keys() == values.keys()
        for step, value in values.items():
            assert both[step] == pytest.approx(value, rel=1e-5), (name, step)
