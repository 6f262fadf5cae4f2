"""What strategies refuse, what the overlays for hardware make, and what a process holds of a model it has a part of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from retrolit import save_model
from retrolit.checkpoint.model_folder import open_model
from retrolit.checkpoint.model_types import Config, Model, empty_model
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.models.layer import TransformerLayer
from retrolit.models.lora import LoRAConfig, add_lora
from retrolit.planning.live_memory import LiveMemory
from retrolit.training import FSDP1Strategy, ShardedStrategy
from retrolit.training.first_weights import Stored, fill
from retrolit.training.sharding import shard
from retrolit.training.tensor_parallel import parallelize

HARDWARE = Path(__file__).parents[2] / "recipes/hardware"
CONFIG = GPTConfig(vocab_size=512, hidden_size=64, num_layers=8, num_attention_heads=8, max_position_embeddings=32)
RETRO = RetroConfig(CONFIG, retro_layers=[6], chunk_length=8, encoder_layers=1)


@pytest.fixture
def mesh():
    """Four machines of two GPUs, of which this process is the one before the last, and all others answer nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=6, world_size=8)
    yield init_device_mesh("cpu", (4, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    dist.destroy_process_group()


def shared_out(config: Config, mesh: DeviceMesh, tensor_parallel: bool) -> tuple[Model, Model]:
    """A model of which this process has its part, without weights, and the same model on the meta device."""
    model, whole = empty_model(config), empty_model(config)
    if tensor_parallel:
        parallelize(model, mesh["tensor_parallel"])
    shard(model, mesh["data_parallel"], "32-true")
    return model.to_empty(device="cpu"), whole


def test_no_process_holds_more_than_its_part_and_one_tensor(mesh, tmp_path) -> None:
    torch.manual_seed(0)
    given = GPT(CONFIG)
    save_model(given, tmp_path / "gpt")
    path = tmp_path / "gpt"
    stored = {f"decoder.{name}": Stored(open_model(path)[1], name, path) for name in given.state_dict()}
    largest = max(weight.numel() for weight in given.parameters()) * 4
    with LiveMemory() as live:
        model, whole = shared_out(RETRO, mesh, tensor_parallel=True)
        fill(model, whole, stored, seed=1)
    size = sum(weight.numel() for weight in whole.parameters()) * 4
    assert size / 8 < live.peak < size / 7 + largest < size / 4


@pytest.mark.parametrize("tensor_parallel", [False, True])
def test_a_part_is_cut_from_where_it_belongs(tensor_parallel, mesh, tmp_path) -> None:
    """By hand: machine 3 of 4, GPU 0 of 2; a matrix is cut in two by rows or columns, and that by rows in four."""
    torch.manual_seed(0)
    given = GPT(CONFIG)
    save_model(given, tmp_path / "gpt")
    stored = {n: Stored(open_model(tmp_path / "gpt")[1], n, tmp_path) for n in given.state_dict() if "norm" not in n}
    model, whole = shared_out(CONFIG, mesh, tensor_parallel)
    fill(model, whole, stored, seed=1)
    columns = ("attention.output.weight", "down.weight")
    uncut = ("norm.weight", "norm.bias", "down.bias", "attention.output.bias")
    for name, stored_weight in given.state_dict().items():
        ways = 2 if tensor_parallel and not name.endswith(uncut) else 1
        of_machine = stored_weight.chunk(ways, dim=1 if name.endswith(columns) else 0)[0]
        weight = model.get_parameter(name)
        assert isinstance(weight, DTensor)
        assert torch.equal(weight.to_local(), of_machine.chunk(4)[3]), name


def test_a_stored_tensor_of_another_shape_is_refused(mesh, tmp_path) -> None:
    save_model(GPT(replace(CONFIG, vocab_size=640)), tmp_path / "gpt")
    stored = {"embedding.weight": Stored(open_model(tmp_path / "gpt")[1], "embedding.weight", tmp_path / "gpt")}
    model, whole = shared_out(CONFIG, mesh, tensor_parallel=False)
    with pytest.raises(ValueError, match=r"gpt: embedding.weight: expected the shape \(512, 64\) .*, got \(640, 64\)"):
        fill(model, whole, stored, seed=1)


@pytest.mark.parametrize("name", ["num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size"])
def test_a_model_that_does_not_divide_is_refused(name, mesh) -> None:
    config = replace(CONFIG, num_query_groups=1 if name == "num_query_groups" else None, head_dim=8)
    if name != "num_query_groups":
        config = replace(config, **{name: 513, "num_query_groups": None})
    with pytest.raises(ValueError, match=rf"strategy.tensor_parallel: expected a divisor of {name} \(\d+\), got 2"):
        shared_out(config, mesh, tensor_parallel=True)


def test_adapters_are_not_shared_out(mesh) -> None:
    with torch.device("meta"):
        model = GPT(CONFIG)
        add_lora(model, LoRAConfig(rank=2))
    with pytest.raises(
        ValueError, match=r"tensor_parallel: expected 1 with model.lora, got 2; .* fits with fsdp2.yaml"
    ):
        parallelize(model, mesh["tensor_parallel"])


@pytest.mark.parametrize("ways", [0, 3])
def test_devices_that_do_not_divide_are_refused(ways) -> None:
    strategy = ShardedStrategy(tensor_parallel=ways)
    strategy.parallel_devices = [torch.device("cpu")] * 8
    with pytest.raises(ValueError, match=f"tensor_parallel: expected a divisor of the 8 devices, got {ways}"):
        strategy.setup_environment()


def test_compiled_layers_share_no_products(make_trainer, make_module, make_data, tmp_path) -> None:
    trainer, module, data = make_trainer(tmp_path, devices=2), make_module(compile=True), make_data()
    data.setup("inspect")
    trainer.datamodule, module.trainer = data, trainer
    module.setup("fit")
    trainer = make_trainer(tmp_path, devices=2, strategy=ShardedStrategy(tensor_parallel=2))
    trainer.datamodule, module.trainer = data, trainer
    with pytest.raises(ValueError, match=r"model.compile: expected false with .*tensor_parallel 2, got true; the grad"):
        module.setup("fit")


def strategy_of(name: str) -> Strategy | str:
    """What the overlay names, made."""
    section = yaml.safe_load((HARDWARE / f"{name}.yaml").read_text(encoding="utf-8"))["trainer"]["strategy"]
    if isinstance(section, str):
        return section
    parser = ArgumentParser()
    parser.add_subclass_arguments(Strategy, "strategy")
    return parser.instantiate_classes(parser.parse_object({"strategy": section})).strategy


def test_overlays_name_the_strategies_that_they_promise() -> None:
    assert strategy_of("ddp") == "ddp"
    fsdp2, both, first = strategy_of("fsdp2"), strategy_of("fsdp_tp"), strategy_of("fsdp")
    assert isinstance(fsdp2, ShardedStrategy)
    assert (fsdp2.tensor_parallel, fsdp2.cpu_offload) == (1, False)
    assert isinstance(both, ShardedStrategy)
    assert both.tensor_parallel == 8
    assert isinstance(first, FSDP1Strategy)
    assert isinstance(first, FSDPStrategy)
    policy = first.kwargs["auto_wrap_policy"]
    assert policy(TransformerLayer(CONFIG), recurse=False, nonwrapped_numel=0)
    assert not policy(torch.nn.Linear(2, 2), recurse=False, nonwrapped_numel=0)


def test_layers_in_the_wrappers_of_the_first_fsdp_give_the_same_numbers(tmp_path) -> None:
    """On one CPU, where Lightning's strategy does not run."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    tokens, neighbors = torch.randint(0, 512, (2, 16)), torch.randint(0, 512, (2, 2, 2, 16))
    gradients = []
    for wrapped in (False, True):
        torch.manual_seed(0)
        retro = Retro(RETRO)
        retro.checkpoint_activations = wrapped
        if wrapped:
            policy = ModuleWrapPolicy({TransformerLayer})
            whole = FullyShardedDataParallel(
                Trained(retro), auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
            )
            assert isinstance(retro.decoder.layers[0], FullyShardedDataParallel)
        else:
            whole = Trained(retro)
        loss = whole(tokens, neighbors)
        loss.backward()
        gradients.append([loss.detach(), *(weight.grad for weight in retro.parameters())])
    dist.destroy_process_group()
    torch.testing.assert_close(gradients[1], gradients[0])


class Trained(torch.nn.Module):
    """The loss of a Retro as a forward pass, which is what the first FSDP wraps."""

    def __init__(self, retro: Retro) -> None:
        super().__init__()
        self.retro = retro

    def forward(self, tokens: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
        return self.retro.loss(tokens, tokens, None, neighbors).mean
