"""The arithmetic of memory is held to real steps, whose living tensors are counted."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table

from retrolit.checkpoint.model_types import empty_model
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.planning import Cluster, MicroBatch, Run, plan_training
from retrolit.planning.activations import activations, tensor_parallel_share
from retrolit.planning.live_memory import LiveMemory
from retrolit.planning.memory import memory
from retrolit.planning.size import size_of

SIZES = {"vocab_size": 512, "hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 256}
NVIDIA = GPTConfig(
    num_layers=4, normalization="layernorm1p", activation="swiglu", rotary_percent=0.5, bias=False, **SIZES
)
GPT2 = GPTConfig(num_layers=4, position_embedding="learned", activation="gelu_tanh", tied_embeddings=True, **SIZES)
GROUPED = GPTConfig(num_layers=3, activation="swiglu", bias=False, num_query_groups=2, **SIZES)
RETRO = RetroConfig(replace(NVIDIA, num_layers=6), retro_layers=[2, 4, 6], chunk_length=16)
NARROW = RetroConfig(replace(NVIDIA, num_layers=6), retro_layers=[3, 6], chunk_length=16, encoder_hidden_size=64)
WIDE_VOCABULARY = replace(NVIDIA, vocab_size=8192, num_layers=2)


def model_and_inputs(config: GPTConfig | RetroConfig, batch: MicroBatch) -> tuple[GPT | Retro, list[Any]]:
    """A model, and what its loss takes."""
    model = Retro(config) if isinstance(config, RetroConfig) else GPT(config)
    if batch.precision == "bf16-true":
        model = model.bfloat16()
    model.checkpoint_activations = batch.checkpointed
    vocabulary = (config.decoder if isinstance(config, RetroConfig) else config).vocab_size
    tokens = torch.randint(0, vocabulary, (batch.samples, batch.length))
    inputs: list[Any] = [tokens, tokens]
    if isinstance(config, RetroConfig):
        shape = (
            batch.samples,
            batch.length // config.chunk_length,
            config.num_neighbors,
            config.retrieved_length,
        )
        inputs += [None, torch.randint(0, vocabulary, shape), torch.ones(shape, dtype=torch.bool)]
    return model, inputs


def measured(config: GPTConfig | RetroConfig, batch: MicroBatch) -> int:
    """Bytes of weights, gradients, AdamW's state and the most of everything else during a second micro-batch."""
    model, inputs = model_and_inputs(config, batch)
    mixed = torch.autocast("cpu", torch.bfloat16) if batch.precision == "bf16-mixed" else nullcontext()

    def micro_batch() -> None:
        with mixed:
            loss = model.loss(*inputs).mean
        loss.backward()

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    micro_batch()
    optimizer.step()
    held = [tensor for weight in model.parameters() for tensor in (weight, weight.grad)]
    held += [state for states in optimizer.state.values() for state in states.values() if state.ndim]
    assert all(tensor is not None for tensor in held)
    with LiveMemory(held) as live:
        micro_batch()
    assert live.bytes < live.peak / 50  # nothing stays but gradients, which were there before
    return sum(tensor.numel() * tensor.element_size() for tensor in held) + live.peak


@pytest.mark.parametrize(
    ("config", "precision", "checkpointed"),
    [
        (NVIDIA, "32-true", False),
        (NVIDIA, "bf16-mixed", True),
        (GPT2, "bf16-mixed", False),
        (GROUPED, "32-true", False),
        (WIDE_VOCABULARY, "bf16-mixed", True),
        (WIDE_VOCABULARY, "bf16-true", False),
        (RETRO, "32-true", False),
        (RETRO, "bf16-mixed", False),
        (RETRO, "32-true", True),
        (RETRO, "bf16-mixed", True),
        (NARROW, "32-true", False),
        (NARROW, "bf16-mixed", True),
    ],
)
def test_memory_is_within_a_tenth_of_a_real_step(
    config: GPTConfig | RetroConfig, precision: str, checkpointed: bool
) -> None:
    batch = MicroBatch(2, 128, precision, checkpointed)
    planned = memory(config, size_of(empty_model(config)), batch, "single")
    assert planned.total == pytest.approx(measured(config, batch), rel=0.1)


def kept_compiled(config: GPTConfig | RetroConfig, batch: MicroBatch) -> int:
    """Bytes that a compiled forward pass keeps for the backward pass, without weights and their copies."""
    model, inputs = model_and_inputs(config, batch)
    torch.compiler.reset()
    # The inductor's graphs, run as they are.
    model.compile_layers(
        backend=aot_autograd(
            fw_compiler=lambda graph, _: graph.forward,
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table,
        )
    )
    shapes = {tuple(weight.shape) for weight in model.parameters()}
    assert not any(batch.tokens in shape for shape in shapes)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in shapes and tuple(tensor.shape)[::-1] not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16) if batch.precision == "bf16-mixed" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
        loss = model.loss(*inputs).mean
    loss.backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.slow
def test_compiled_layers_keep_what_is_planned() -> None:
    """Beyond what a model of one layer keeps: the rest is the loss's."""
    batch, less = MicroBatch(2, 144, "bf16-mixed", compiled=True), replace(NVIDIA, num_layers=1)
    planned, eager = (
        activations(NVIDIA, each).at_loss - activations(less, each).at_loss
        for each in (batch, replace(batch, compiled=False))
    )
    kept = kept_compiled(NVIDIA, batch) - kept_compiled(less, batch)
    assert planned == pytest.approx(kept, rel=0.02)
    assert eager > 1.1 * kept


def test_shared_products_are_planned_as_not_compiled() -> None:
    eager, compiled = (
        plan_training(Run(NVIDIA, MicroBatch(4, 256, compiled=how), 64, 10), Cluster(4)).memory for how in (False, True)
    )
    assert eager["fsdp+tp"] == compiled["fsdp+tp"]
    assert all(compiled[name][0].total < eager[name][0].total for name in ("single", "ddp", "fsdp"))


def test_the_compiled_loss_holds_more_rows_of_logits_and_each_once() -> None:
    """4096 rows, of a small vocabulary 8192 otherwise; layers that are not gated keep as much."""
    batch, config = MicroBatch(40, 256, "bf16-true"), replace(NVIDIA, activation="gelu")
    eager, compiled = (activations(config, each).at_loss for each in (batch, replace(batch, compiled=True)))
    assert eager - compiled == (8192 * (4 + 2) - 4096 * 2) * config.vocab_size


def test_states_take_sixteen_bytes_a_parameter_and_eight_in_bfloat16() -> None:
    size = size_of(empty_model(NVIDIA))
    for precision, each in (("32-true", 4), ("bf16-mixed", 4), ("bf16-true", 2)):
        planned = memory(NVIDIA, size, MicroBatch(1, 64, precision), "single")
        assert (planned.weights, planned.gradients, planned.optimizer) == (
            each * size.total,
            each * size.total,
            2 * each * size.total,
        )


def test_sharding_divides_states_by_the_gpus_and_leaves_activations() -> None:
    size, batch = size_of(empty_model(RETRO)), MicroBatch(1, 64, "32-true")
    one, many = (memory(RETRO, size, batch, "fsdp", gpus=gpus) for gpus in (1, 8))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(many, part) == -(-getattr(one, part) // 8)
    assert (many.activations, many.copies) == (one.activations, one.copies)


def test_ddp_holds_the_gradients_once_more() -> None:
    size, batch = size_of(empty_model(RETRO)), MicroBatch(1, 64, "32-true")
    single, ddp = (memory(RETRO, size, batch, strategy) for strategy in ("single", "ddp"))
    assert ddp.total - single.total == single.gradients


def test_weights_that_are_not_trained_have_no_gradient_and_no_state() -> None:
    size = size_of(empty_model(RETRO), "new")
    planned = memory(RETRO, size, MicroBatch(1, 64, "32-true"), "single", trained="new")
    assert planned.optimizer == 8 * size.trained < 8 * size.total
    assert planned.weights == 4 * size.total


def test_checkpointing_never_takes_more() -> None:
    run = Run(RETRO, MicroBatch(4, 256), 64, 10)
    for without, checkpointed in plan_training(run, Cluster(8)).memory.values():
        assert checkpointed.total < without.total


def test_the_shares_of_a_tensor_parallel_group_make_up_the_matrices() -> None:
    whole, share = size_of(empty_model(RETRO)), size_of(empty_model(tensor_parallel_share(RETRO, 4)))
    norms = sum(
        weight.numel() for name, weight in empty_model(RETRO).named_parameters() if "norm" in name
    )  # every device has them
    assert 4 * (share.total - norms) == whole.total - norms


def test_sizes_that_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match=r"tensor_parallel: expected a divisor of num_attention_heads \(4\), got 3"):
        tensor_parallel_share(NVIDIA, 3)
    with pytest.raises(ValueError, match=r"expected an encoder as wide as the decoder \(128\), got .* 64"):
        tensor_parallel_share(NARROW, 2)
    with pytest.raises(ValueError, match=r"trainer.precision: expected one of 32-true, .*; got 16-mixed"):
        MicroBatch(1, 64, "16-mixed")
