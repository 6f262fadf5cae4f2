"""A cross-attention that begins by copying: its weights belong together, and untrained it says what followed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from retrolit.checkpoint.model_types import empty_model
from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.models.copying import MATCH, SAID, copying_weights
from retrolit.training.first_weights import fill

DECODER = GPTConfig(
    vocab_size=512, hidden_size=128, num_layers=2, num_attention_heads=4, max_position_embeddings=128,
    normalization="rmsnorm", tied_embeddings=True,
)  # fmt: skip
COPYING = RetroConfig(
    DECODER, retro_layers=[1, 2], chunk_length=16, encoder_layers=1, cross_rotary=False,
    shifted_keys=True, cross_attention_init="copying",
)  # fmt: skip


def by_itself() -> Retro:
    torch.manual_seed(0)
    return Retro(COPYING)


def by_name() -> Retro:
    """As a run draws them, one module at a time."""
    model, whole = empty_model(COPYING), empty_model(COPYING)
    model.to_empty(device="cpu")
    fill(model, whole, {}, seed=1)
    return model


@pytest.mark.parametrize("make", [by_itself, by_name])
def test_what_finds_and_what_says_belong_together(make) -> None:
    model = make()
    attentions = [layer.cross_attention for layer in model.retro_layers.values()]
    for attention in attentions:
        pairs = attention.key_value.weight.view(attention.num_heads, 2, attention.head_dim, -1)
        keys, values = (part.flatten(0, 1) for part in pairs.unbind(1))
        assert torch.equal(attention.query.weight, keys)
        assert torch.equal(attention.output.weight, values.T)
    assert not torch.equal(attentions[0].query.weight, attentions[1].query.weight)

    x = torch.nn.functional.normalize(torch.randn(2000, 128)) * 128**0.5
    finds = attentions[0].query(x).view(-1, 4, 32).pow(2).sum(-1) / 32**0.5
    assert finds.mean().item() == pytest.approx(MATCH, rel=0.1)
    values = attentions[0].key_value(x).view(-1, 4, 2, 32)[:, :, 1].flatten(1)
    said = (attentions[0].output(values) * x).sum(-1) / 128
    assert said.mean().item() == pytest.approx(SAID, rel=0.1)


def test_weights_are_drawn_on_the_cpu_whatever_device_models_are_made_on() -> None:
    with torch.device("meta"):
        weights = copying_weights(2, 4, 8, torch.Generator())
    assert {weight.device.type for weight in weights.values()} == {"cpu"}


@pytest.mark.parametrize(
    ("changes", "copies"),
    [({}, True), ({"shifted_keys": False}, False), ({"cross_attention_init": "normal"}, False)],
)
def test_an_untrained_model_says_what_followed_in_a_neighbor(changes: dict, copies: bool) -> None:
    """Neighbors of noise, one of which holds the next 16 tokens at some place; embeddings as long as trained ones."""
    torch.manual_seed(0)
    model = Retro(replace(COPYING, retro_layers=[1], **changes)).eval()
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(16)
        tokens, neighbors = torch.randint(0, 512, (8, 32)), torch.randint(0, 512, (8, 2, 2, 32))
        neighbors[:, 0, 1, 5:22] = tokens[:, 14:31]
        logits = model(tokens, neighbors)[:, 15:30]
    right = (logits.argmax(-1) == tokens[:, 16:31]).float().mean()
    assert (right > 0.85) if copies else (right < 0.05), right
