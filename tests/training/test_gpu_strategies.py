"""One GPU that is all of them: every strategy gives the numbers of a plain run, also after it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from retrolit import load_model
from retrolit.checkpoint.consolidate import consolidate
from retrolit.checkpoint.model_types import empty_model
from retrolit.models import GPT, Retro
from retrolit.training import FSDP1Strategy, RetroModule, ShardedStrategy, newest_checkpoint
from retrolit.training.first_weights import fill
from retrolit.training.optimizer import OptimizerConfig
from retrolit.training.schedule import ScheduleConfig
from retrolit.training.sharding import shard
from retrolit.training.tensor_parallel import parallelize
from tests.training.small_retro import RETRIEVAL, RETRO

pytestmark = pytest.mark.gpu

OFFLOADED = partial(ShardedStrategy, cpu_offload=True)
STRATEGIES: dict[str, tuple[Callable[[], Any], bool]] = {
    "ddp": (partial(str, "ddp"), False),
    "fsdp": (FSDP1Strategy, False),
    "fsdp checkpointed": (FSDP1Strategy, True),
    "fsdp2": (ShardedStrategy, False),
    "fsdp2 checkpointed": (ShardedStrategy, True),
    "fsdp2 offloaded": (OFFLOADED, False),
}
"""And whether activations are computed again."""


@pytest.fixture
def fit(make_trainer, make_module, make_data, data_config, tmp_path):
    """Trains a GPT or a Retro under a strategy in tmp_path / name; its last weights, whole, come back by name."""

    def run(kind: str, name: str, strategy: Any = "auto", how: dict | None = None, ckpt_path=None, **trainer):
        if kind == "gpt":
            module, data = make_module(**(how or {})), make_data()
        else:
            torch.manual_seed(5)  # the first weights
            settings: dict[str, Any] = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": ScheduleConfig(warmup=3)}
            module = RetroModule(RETRO, **settings, **(how or {}))
            retrieved = replace(data_config, retrieval=RETRIEVAL)
            data = make_data(data=retrieved, num_neighbors=2, num_retrieved_chunks=2)
        settings = {"accelerator": "gpu", "strategy": strategy, "max_steps": 3, "limit_val_batches": 0}
        make_trainer(tmp_path / name, **(settings | trainer)).fit(module, data, ckpt_path=ckpt_path)
        weights = {
            name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().cpu()
            for name, weight in module.model.named_parameters()
        }
        if dist.is_initialized():
            dist.destroy_process_group()
        return weights

    return run


@pytest.fixture
def compare(fit, rows, tmp_path):
    """Losses, norms of gradients, and of a Retro the shares of its parts, beside those of the run named plain."""

    def run(kind: str, name: str, near: float, *settings: Any, **trainer: Any) -> None:
        fit(kind, name, *settings, **trainer)
        expected, found = rows(tmp_path / "plain"), rows(tmp_path / name)
        assert set(expected) == set(found) == {1, 2, 3}
        for step, row in found.items():
            for metric in ("train/loss", "train/gradient_norm"):
                assert row[metric] == pytest.approx(expected[step][metric], rel=near), (name, step, metric)
            if kind == "retro":  # the clock is the GPU's
                shares = [row[f"speed/{part}_share"] for part in ("encoder", "cross_attention", "optimizer", "decoder")]
                assert all(0 < share < 1 for share in shares), (name, shares)

    return run


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["gpt", "retro"])
def test_losses_and_norms_are_those_of_a_plain_run(kind, precision, fit, compare) -> None:
    fit(kind, "plain", precision=precision)
    for name, (strategy, again) in STRATEGIES.items():
        near = 1e-4 if precision == "32-true" else 2e-2
        compare(kind, name, near, strategy(), {"checkpoint_activations": again}, precision=precision)


@pytest.mark.parametrize("again", [False, True])
def test_compiled_layers_are_shared_out_too(again, fit, compare) -> None:
    fit("retro", "plain", precision="bf16-mixed")
    how = {"compile": True, "checkpoint_activations": again}
    for name, strategy in (("ddp", "ddp"), ("fsdp2", ShardedStrategy())):
        compare("retro", name, 2e-2, strategy, how, precision="bf16-mixed")


@pytest.mark.parametrize("make", [FSDP1Strategy, ShardedStrategy, OFFLOADED])
def test_a_stopped_run_goes_on_and_its_weights_are_put_together(make, fit, rows, tmp_path) -> None:
    weights = fit("retro", "whole", max_steps=4)
    fit("retro", "run", make(), max_steps=4, every=2, limit_train_batches=4)
    before = tmp_path / "run/checkpoints/step-00000002.ckpt"
    fit("retro", "again", make(), ckpt_path=before, max_steps=4)
    expected, again = rows(tmp_path / "whole"), rows(tmp_path / "again")
    assert set(again) == {3, 4}
    for step, row in again.items():
        assert row["train/loss"] == pytest.approx(expected[step]["train/loss"], rel=1e-4)
    newest = newest_checkpoint(tmp_path / "again")
    assert newest is not None
    consolidate(newest, tmp_path / "model")
    model = load_model(tmp_path / "model")
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt", "retro"])
def test_products_are_shared_through_nccl(kind) -> None:
    """A group of one, whose collectives are NCCL's all the same."""
    config = RETRO if kind == "retro" else RETRO.decoder
    address = f"tcp://127.0.0.1:{find_free_network_port()}"
    dist.init_process_group("nccl", init_method=address, rank=0, world_size=1)
    mesh = init_device_mesh("cuda", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    tokens, labels = torch.randint(0, 257, (2, 2, 32), device="cuda")
    inputs: list[Any] = [tokens, labels]
    if kind == "retro":
        inputs += [None, torch.randint(0, 257, (2, 4, 2, 16), device="cuda")]
    numbers = []
    for shared in (False, True):
        model, whole = empty_model(config), empty_model(config)
        if shared:
            parallelize(model, mesh["tensor_parallel"])
            shard(model, mesh["data_parallel"], "32-true")
        fill(model.to_empty(device="cuda"), whole, {}, seed=1)
        assert isinstance(model, GPT | Retro)
        loss = model.loss(*inputs).mean
        loss.backward()
        gradients = [weight.grad for weight in model.parameters()]
        whole_ones = [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]
        numbers.append([loss.detach(), *whole_ones])
    dist.destroy_process_group()
    torch.testing.assert_close(numbers[1], numbers[0], atol=1e-5, rtol=1e-3)
