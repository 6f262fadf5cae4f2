"""A run that is killed anywhere and started again is the run that was never killed, bit for bit."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch

RUN = Path("runs/small")


@pytest.fixture
def fit(recipe, retrolit_process):
    """`retrolit fit` of the small recipe; `interrupted` says where a callback ends it, and how."""

    def run(*options, interrupted=None):
        command = ["fit", "-c", recipe, *options]
        if interrupted is not None:
            step, micro_batch, name, *validation = interrupted
            Path("interrupt.yaml").write_text(
                "trainer:\n  callbacks:\n    - class_path: interruptions.SignalAt\n"
                f"      init_args: {{step: {step}, micro_batch: {micro_batch}, name: {name}, "
                f"validation: {bool(validation)}}}\n"
            )
            command += ["-c", "interrupt.yaml"]
        return retrolit_process(*command)

    return run


@pytest.fixture(scope="module")
def uninterrupted():
    """What a run that was left alone ended with; filled by the first test that asks."""
    return {}


@pytest.fixture
def expected(uninterrupted, fit, metrics):
    if not uninterrupted:
        assert fit() == 0
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
@pytest.mark.parametrize(("step", "micro_batch", "num_workers"), [(3, 0, 0), (8, 0, 0), (6, 1, 2)])
def test_killed_and_started_again(step, micro_batch, num_workers, expected, fit, metrics):
    options = ["--data.num_workers", num_workers]
    assert fit(*options, interrupted=(step, micro_batch, "SIGKILL")) == -signal.SIGKILL
    assert not (RUN / "model").exists()
    assert fit(*options) == 0
    assert (RUN / "model/model.safetensors").exists()
    _check_same_bits(_outcome(metrics), expected)


def test_killed_twice(expected, fit, metrics):
    assert fit(interrupted=(5, 0, "SIGKILL")) == -signal.SIGKILL
    assert fit(interrupted=(10, 1, "SIGKILL")) == -signal.SIGKILL
    assert fit() == 0
    _check_same_bits(_outcome(metrics), expected)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_sigterm_saves_the_last_whole_step(micro_batch, expected, fit, metrics):
    assert fit(interrupted=(6, micro_batch, "SIGTERM")) == 143
    # The signal is heeded when its micro-batch is done; the second one completes step 7.
    assert max(path.name for path in (RUN / "checkpoints").iterdir()) == f"step-0000000{6 + micro_batch}.ckpt"
    assert fit() == 0
    _check_same_bits(_outcome(metrics), expected)


@pytest.mark.parametrize(("step", "name"), [(6, "SIGTERM"), (9, "SIGKILL")])
def test_a_validation_that_was_cut_off_is_run_again(step, name, expected, fit, metrics):
    code = 143 if name == "SIGTERM" else -signal.SIGKILL
    assert fit("--checkpoints.every", 3, interrupted=(step, 0, name, "validation")) == code
    assert step not in metrics("val/loss")
    assert fit() == 0
    _check_same_bits(_outcome(metrics), expected)


def test_two_processes_learn_what_one_learns(fit, metrics):
    """Without dropout, whose draws differ by process, the losses agree but for the order of sums."""
    no_dropout = ["--model.config.attention_dropout", 0, "--model.config.hidden_dropout", 0]
    assert fit(*no_dropout) == 0
    losses = {name: metrics(name) for name in ("train/loss", "train/gradient_norm", "val/loss")}
    two = ["--trainer.strategy", "ddp_fork", "--trainer.devices", 2, "--data.micro_batch_size", 2]
    assert fit(*no_dropout, *two, "--trainer.default_root_dir", "runs/two") == 0
    assert Path("runs/two/model/model.safetensors").exists()
    for name, values in losses.items():
        both = metrics(name, folder="runs/two")
        assert both.keys() == values.keys()
        for step, value in values.items():
            assert both[step] == pytest.approx(value, rel=1e-5), (name, step)
