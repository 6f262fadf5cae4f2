"""Our Retro computes what Megatron computed: logits, losses, hidden states, encodings, gradients, generated tokens."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from retrolit.checkpoint.megatron import rules, spelling_of
from retrolit.checkpoint.megatron_retro import retro_layers_of, retro_rules
from retrolit.checkpoint.tables import fill_in, to_ours, to_theirs
from retrolit.models import GPT, GPTConfig, Retro, RetroCache, RetroConfig

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
NAMES = [
    "retro_rope_1p_swiglu",
    "retro_learned_bias_gelu_tied",
    "retro_no_final_norm",
    "retro_legacy_rope_1p_swiglu",
    "legacy_retro_released_like",
]


class Fixture(NamedTuple):
    """Numbers that Megatron computed, and our model with its weights."""

    model: Retro
    moves: list
    cases: dict[str, dict[str, Tensor]]
    gradients: dict


def open_fixture(folder: Path) -> Fixture:
    said = json.loads((folder / "config.json").read_text())
    theirs = load_file(folder / "model.safetensors")
    config = retro_config(said)
    assert retro_layers_of(theirs) == said["retro_decoder_layer_numbers"] == config.retro_layers
    model = Retro(config).eval()
    moves = fill_in(retro_rules(config, spelling_of(theirs)), config.decoder, model.state_dict())
    assert sorted(name for move in moves for name in move.theirs) == sorted(theirs)
    model.load_state_dict(dict(to_ours(moves, config.decoder, theirs)))
    tensors = load_file(folder / "cases.safetensors")
    cases = {
        case: {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{case}.")}
        for case in said["cases"]
    }
    assert cases
    return Fixture(model, moves, cases, json.loads((folder / "grads.json").read_text()))


def gpt_config(said: dict) -> GPTConfig:
    activation = "swiglu" if said["gated_linear_unit"] else said["activation"]
    assert activation in ("swiglu", "gelu", "relu")
    return GPTConfig(
        vocab_size=said["padded_vocab_size"],
        hidden_size=said["hidden_size"],
        num_layers=said["num_layers"],
        num_attention_heads=said["num_attention_heads"],
        max_position_embeddings=said["max_position_embeddings"],
        num_query_groups=said["num_query_groups"],
        head_dim=said["kv_channels"],
        ffn_hidden_size=said["ffn_hidden_size"],
        normalization="layernorm1p" if said["layernorm_zero_centered_gamma"] else "layernorm",
        norm_epsilon=said["layernorm_epsilon"],
        activation=activation,
        position_embedding="rope" if said["position_embedding_type"] == "rope" else "learned",
        rotary_percent=said["rotary_percent"],
        rotary_base=said["rotary_base"],
        bias=said["add_bias_linear"],
        tied_embeddings=not said["untie_embeddings_and_output_weights"],
        final_norm=said["final_layernorm"],
    )


def retro_config(said: dict) -> RetroConfig:
    return RetroConfig(
        gpt_config(said),
        chunk_length=said["retro_chunk_length"],
        num_neighbors=said["retro_num_neighbors"],
        num_retrieved_chunks=said["retro_num_retrieved_chunks"],
        encoder_layers=said["retro_encoder_num_layers"],
        encoder_residual="unnormed" if said["implementation"] == "legacy" else "normed",
        encoder_rotary=False,
        cross_rotary=False,
        mask_padding=False,
    )


@pytest.fixture(params=NAMES)
def fixture(shared: Path, request: pytest.FixtureRequest) -> Fixture:
    return open_fixture(shared / "fixtures/megatron" / request.param)


@pytest.fixture
def released(shared: Path) -> Fixture:
    return open_fixture(shared / "fixtures/megatron/legacy_retro_released_like")


def how(case: dict[str, Tensor]) -> dict:
    """The gate and the chunk length of a case, which only the released form of Retro varies."""
    chunk_length = case["chunk_length"].item() if "chunk_length" in case else None
    return {"gate": case["gate"].item() if "gate" in case else 1.0, "chunk_length": chunk_length}


def test_logits_are_megatrons(fixture):
    gates = set()
    for case in fixture.cases.values():
        logits = fixture.model(case["tokens"], case["neighbors"], **how(case))
        torch.testing.assert_close(logits, case["logits"], **TOLERANCE)
        gates.add(how(case)["gate"])
    assert gates in ({1.0}, {0.0, 0.5, 1.0})


def test_token_losses_are_megatrons(fixture):
    compared = 0
    for case in fixture.cases.values():
        if "token_loss" in case:
            loss = fixture.model.loss(case["tokens"], case["labels"], None, case["neighbors"], **how(case))
            torch.testing.assert_close(loss.tokens, case["token_loss"], **TOLERANCE)
            compared += 1
    assert compared


def test_hidden_states_and_encodings_are_megatrons(fixture):
    seen: list[Tensor] = []
    for layer in fixture.model.decoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    encoded: list[Tensor] = []
    fixture.model.encoder.register_forward_hook(lambda module, inputs, output: encoded.append(output))
    case = next(iter(fixture.cases.values()))
    batch, chunks, neighbors, length = case["neighbors"].shape
    fixture.model(case["tokens"], case["neighbors"])
    assert len(seen) == fixture.model.config.decoder.num_layers
    for number, hidden in enumerate(seen, start=1):
        torch.testing.assert_close(hidden, case[f"hidden_after_layer_{number}"], **TOLERANCE)
    ours = encoded[0].view(batch, chunks, neighbors, length, -1).permute(3, 2, 0, 1, 4)  # (R, K, B, L, D)
    torch.testing.assert_close(ours.reshape(case["encoder_output"].shape), case["encoder_output"], **TOLERANCE)


def test_gradients_are_megatrons(fixture):
    assert len(fixture.gradients) == 2
    for name, expected in fixture.gradients.items():
        case = fixture.cases[name]
        fixture.model.zero_grad()
        mask = case.get("loss_mask") if name == "sft_released" else None
        loss = fixture.model.loss(case["tokens"], case["labels"], mask, case["neighbors"], **how(case)).mean
        loss.backward()
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-4)
        ours = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in fixture.model.named_parameters()
        }
        theirs = dict(to_theirs(fixture.moves, fixture.model.config.decoder, ours))
        assert theirs.keys() == expected["parameters"].keys()
        for parameter, gradient in theirs.items():
            flat = gradient.double().flatten()
            probe = (flat * torch.arange(len(flat)).double().cos()).sum().item()  # notices a permuted gradient
            assert flat.norm().item() == pytest.approx(expected["parameters"][parameter]["norm"], abs=1e-4, rel=1e-4)
            assert probe == pytest.approx(expected["parameters"][parameter]["probe"], abs=1e-4, rel=1e-4)
        total = math.sqrt(sum(gradient.double().square().sum().item() for gradient in ours.values()))
        assert total == pytest.approx(expected["total_grad_norm"], rel=1e-4)


@pytest.mark.parametrize("case", ["gen_first", "gen_eod"])
def test_greedy_generation_gives_nvidias_tokens(released, case):
    """NVIDIA recomputes everything for each token; its logits are ours, made one token at a time."""
    numbers = released.cases[case]
    prompt = int(numbers["prompt_length"])
    cache = RetroCache(released.model.config, 1, 2 * prompt, prompt, chunk_length=prompt)
    tokens, neighbors = numbers["tokens"][:, :prompt], numbers["neighbors"][:, :1]
    generated, logits = [], []
    with torch.no_grad():
        while len(generated) < len(numbers["generated"]):
            assert cache.ending_chunks(tokens.shape[1]) == ([] if generated else [(0, prompt)])
            logits.append(released.model(tokens, None if generated else neighbors, cache=cache)[:, -1])
            tokens = logits[-1].argmax(-1, keepdim=True)
            generated.append(tokens.item())
    assert generated == numbers["generated"].tolist()
    assert case != "gen_eod" or generated[-1] == numbers["eod"]
    if case == "gen_first":
        expected = released.cases["gen_last"]["logits"][:, prompt - 1 : prompt - 1 + len(generated)]
        torch.testing.assert_close(torch.stack(logits, dim=1), expected, **TOLERANCE)


def test_retro_fitting_keeps_the_gpts_function(shared, released):
    """And, as a fact about Megatron-LM before Megatron Core, what its loading by name made of the same weights."""
    folder = shared / "fixtures/megatron/legacy_gpt_released_like"
    gpt = GPT(gpt_config(json.loads((folder / "config.json").read_text()))).eval()
    theirs = load_file(folder / "model.safetensors")
    moves = fill_in(rules("legacy", gated=True), gpt.config, gpt.state_dict())
    gpt.load_state_dict(dict(to_ours(moves, gpt.config, theirs)))
    retro = Retro.from_gpt(gpt, replace(released.model.config, decoder=gpt.config)).eval()
    by_name = Retro.from_gpt(gpt, retro.config).eval()
    for layer in by_name.retro_layers.values():
        layer.mlp_norm.reset_parameters()  # the trained one went to the cross-attention's norm, of the same name
    cases = load_file(folder / "cases.safetensors")
    for case in ("len16", "len18"):
        tokens = cases[f"{case}.tokens"]
        torch.testing.assert_close(retro(tokens), cases[f"{case}.logits"], **TOLERANCE)
        torch.testing.assert_close(by_name(tokens), cases[f"{case}.legacy_retrofit_gate0_logits"], **TOLERANCE)
