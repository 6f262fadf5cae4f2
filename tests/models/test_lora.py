"""Adapters: nothing at first, a part of the weights when merged, and beside no other weights than asked for."""

from __future__ import annotations

import pytest
import torch

from retrolit import load_model, save_model
from retrolit.models import Retro
from retrolit.models.lora import TARGETS, LoRAConfig, add_lora, merge_lora
from tests.models.retro_models import TINY, VARIANTS, build, random_neighbors, random_tokens


def adapted(config, lora: LoRAConfig) -> tuple[Retro, Retro]:
    """A model, and the same one with adapters that say something."""
    model, other = build(config), Retro(config).eval()
    other.load_state_dict(model.state_dict())
    add_lora(other, lora)
    return model, other


def move(model: Retro) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_up"):
                weight.normal_(std=0.2)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_an_adapted_model_begins_as_it_was_and_merges_into_itself(config, tmp_path) -> None:
    model, other = adapted(config, LoRAConfig(rank=3, alpha=5))
    tokens, neighbors = random_tokens(2, 12), random_neighbors(config, 2, 12)
    assert torch.equal(model(tokens, neighbors), other(tokens, neighbors))
    move(other)
    said = other(tokens, neighbors)
    assert not torch.allclose(said, model(tokens, neighbors), atol=1e-2)
    save_model(other, tmp_path / "model")
    merged = load_model(tmp_path / "model")
    assert merged.state_dict().keys() == model.state_dict().keys()
    assert torch.allclose(merged(tokens, neighbors), said, atol=1e-4)


def test_what_is_merged_is_the_product_of_the_paper() -> None:
    _, other = adapted(TINY, LoRAConfig(rank=3, alpha=6))
    move(other)
    layer = other.decoder.layers[0].mlp.up
    expected = layer.weight + 2 * layer.lora_up @ layer.lora_down
    assert torch.allclose(merge_lora(other.state_dict())["decoder.layers.0.mlp.up.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_layers_that_are_named_get_adapters(target) -> None:
    config = VARIANTS["llama"]
    _, other = adapted(config, LoRAConfig(rank=2, targets=[target]))
    names = {name for name, weight in other.named_parameters() if weight.requires_grad}
    assert names
    assert {name.split(".")[-2] for name in names} == {target}
    assert "decoder.output.lora_up" not in names


def test_frozen_layers_get_none() -> None:
    model = build(TINY)
    model.encoder.requires_grad_(False)
    add_lora(model, LoRAConfig(rank=2))
    assert not any(".lora_" in name for name in model.encoder.state_dict())


def test_dropout_falls_on_what_adapters_read_and_in_training_alone() -> None:
    _, other = adapted(TINY, LoRAConfig(rank=2, dropout=0.5))
    tokens = random_tokens(1, 8)
    assert torch.equal(other.train()(tokens), other.train()(tokens))  # they say nothing yet
    move(other)
    assert not torch.equal(other.train()(tokens), other.train()(tokens))
    assert torch.equal(other.eval()(tokens), other.eval()(tokens))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LoRAConfig.rank: expected more than 0, got 0"):
        LoRAConfig(rank=0)
    with pytest.raises(ValueError, match=r"LoRAConfig.dropout: expected at least 0 and below 1, got 1"):
        LoRAConfig(dropout=1)
    with pytest.raises(ValueError, match=r"LoRAConfig.targets: expected some of qkv, .* got \['q_proj'\]"):
        LoRAConfig(targets=["q_proj"])
    with pytest.raises(ValueError, match=r"LoRAConfig.targets: expected layers that the model has, got gate"):
        add_lora(build(TINY), LoRAConfig(targets=["gate"]))
