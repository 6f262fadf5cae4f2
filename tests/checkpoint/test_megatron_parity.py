"""Our GPT computes what Megatron computed: logits, token losses, hidden states and gradients of its own models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from retrolit.checkpoint.megatron import config_from_options, rules, spelling_of
from retrolit.checkpoint.tables import fill_in, to_ours, to_theirs
from retrolit.models import GPT
from retrolit.models.config import GATED_ACTIVATIONS

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


class Fixture(NamedTuple):
    """Numbers that Megatron computed, and our model with its weights."""

    model: GPT
    moves: list
    cases: dict[str, dict[str, Tensor]]
    gradients: dict


@pytest.fixture(params=["gpt_rope_1p_swiglu", "gpt_learned_bias_gelu_tied", "legacy_gpt_released_like"])
def fixture(shared: Path, request: pytest.FixtureRequest) -> Fixture:
    folder = shared / "fixtures/megatron" / request.param
    said = json.loads((folder / "config.json").read_text())
    theirs = load_file(folder / "model.safetensors")
    config = config_from_options(_options(said), final_norm=said["final_layernorm"])
    model = GPT(config)
    table = rules(spelling_of(theirs), gated=config.activation in GATED_ACTIVATIONS)
    moves = fill_in(table, config, model.state_dict())
    model.load_state_dict(dict(to_ours(moves, config, theirs)))
    tensors = load_file(folder / "cases.safetensors")
    cases = {
        case: {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{case}.")}
        for case in said["cases"]
    }
    assert cases
    return Fixture(model, moves, cases, json.loads((folder / "grads.json").read_text()))


def test_logits_are_megatrons(fixture):
    for case in fixture.cases.values():
        torch.testing.assert_close(fixture.model(case["tokens"]), case["logits"], **TOLERANCE)


def test_token_losses_are_megatrons(fixture):
    for case in fixture.cases.values():
        losses = fixture.model.loss(case["tokens"], case["labels"]).tokens
        torch.testing.assert_close(losses, case["token_loss"], **TOLERANCE)


def test_hidden_states_after_every_layer_are_megatrons(fixture):
    seen: list[Tensor] = []
    for layer in fixture.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    case = next(iter(fixture.cases.values()))
    fixture.model(case["tokens"])
    assert len(seen) == fixture.model.config.num_layers
    for number, hidden in enumerate(seen, start=1):
        torch.testing.assert_close(hidden, case[f"hidden_after_layer_{number}"], **TOLERANCE)


def test_gradients_are_megatrons(fixture):
    assert fixture.gradients
    for name, expected in fixture.gradients.items():
        case = fixture.cases[name]
        fixture.model.zero_grad()
        loss = fixture.model.loss(case["tokens"], case["labels"]).mean
        loss.backward()
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-4)
        ours = {name: parameter.grad for name, parameter in fixture.model.named_parameters()}
        theirs = dict(to_theirs(fixture.moves, fixture.model.config, ours))
        assert theirs.keys() == expected["parameters"].keys()
        for parameter, gradient in theirs.items():
            flat = gradient.double().flatten()
            probe = (flat * torch.arange(len(flat)).double().cos()).sum().item()  # notices a permuted gradient
            assert flat.norm().item() == pytest.approx(expected["parameters"][parameter]["norm"], abs=1e-4, rel=1e-4)
            assert probe == pytest.approx(expected["parameters"][parameter]["probe"], abs=1e-4, rel=1e-4)
        total = math.sqrt(sum(gradient.double().square().sum().item() for gradient in ours.values()))
        assert total == pytest.approx(_total_norm(expected), rel=1e-4)


def _total_norm(expected: dict) -> float:
    squares = sum(parameter["norm"] ** 2 for parameter in expected["parameters"].values())
    return expected.get("total_grad_norm", math.sqrt(squares))


def _options(said: dict) -> dict:
    """A fixture's config.json, in the names of TransformerConfig, as Megatron's command-line options."""
    assert said["activation"] in ("silu", "gelu")
    assert said["gated_linear_unit"] == (said["activation"] == "silu")
    same = (
        "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "kv_channels", "normalization",
        "rotary_percent", "rotary_base", "rotary_interleaved", "position_embedding_type", "add_bias_linear",
        "max_position_embeddings", "padded_vocab_size", "untie_embeddings_and_output_weights",
    )  # fmt: skip
    return {name: said[name] for name in same} | {
        "norm_epsilon": said["layernorm_epsilon"],
        "apply_layernorm_1p": said["layernorm_zero_centered_gamma"],
        "swiglu": said["gated_linear_unit"],
        "bias_gelu_fusion": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }
