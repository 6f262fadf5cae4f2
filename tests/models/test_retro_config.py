"""What a Retro's config makes of what it is not told, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.models.retro_config import default_retro_layers
from tests.models.retro_models import DECODER, TINY, VARIANTS


@pytest.mark.parametrize(
    ("num_layers", "expected"),
    [
        (12, [6, 9, 12]),
        (15, [6, 9, 12, 15]),
        (24, [9, 12, 15, 18, 21, 24]),
        (32, [9, 12, 15, 18, 21, 24, 27, 30]),
        (40, list(range(9, 40, 3))),
        (48, list(range(9, 49, 3))),
    ],
)
def test_the_papers_retro_layers(num_layers: int, expected: list[int]) -> None:
    assert default_retro_layers(num_layers) == expected
    assert RetroConfig(replace(DECODER, num_layers=num_layers)).retro_layers == expected


def test_the_encoder_is_as_the_decoder_when_equally_wide() -> None:
    decoder = replace(DECODER, head_dim=6, ffn_hidden_size=50, num_query_groups=1)
    encoder = RetroConfig(decoder, retro_layers=[2]).encoder
    assert (encoder.hidden_size, encoder.num_attention_heads, encoder.head_dim) == (16, 2, 6)
    assert (encoder.ffn_hidden_size, encoder.num_layers, encoder.num_query_groups) == (50, 2, 2)


def test_a_narrower_encoder_keeps_the_size_of_heads() -> None:
    encoder = RetroConfig(replace(DECODER, hidden_size=64, head_dim=8, num_attention_heads=8), encoder_hidden_size=24,
                          retro_layers=[2]).encoder  # fmt: skip
    assert (encoder.num_attention_heads, encoder.head_dim, encoder.ffn_hidden_size) == (3, 8, 96)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_config_survives_being_a_dictionary(config: RetroConfig) -> None:
    assert RetroConfig.from_dict(asdict(config)) == config
    assert replace(config) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retro_layers": [4]}, r"retro_layers: expected ascending numbers from 1 to num_layers \(3\), got \[4\]"),
        ({"retro_layers": [0, 1]}, "retro_layers"),
        ({"retro_layers": [2, 1]}, "retro_layers"),
        ({"retro_layers": [2, 2]}, "retro_layers"),
        ({"retro_layers": []}, r"retro_layers: the default needs a decoder of at least 6 layers.* for example \[3\]"),
        ({"chunk_length": 0}, "chunk_length: expected more than 0, got 0"),
        ({"num_neighbors": 0}, "num_neighbors: expected more than 0"),
        ({"num_retrieved_chunks": 0}, "num_retrieved_chunks: expected more than 0"),
        ({"encoder_layers": 0}, "encoder_layers: expected more than 0"),
        ({"encoder_residual": "both"}, "encoder_residual: expected one of unnormed, normed; got 'both'"),
        (
            {"cross_attention_init": "mimetic"},
            "cross_attention_init: expected one of normal, zero, copying; got 'mimetic'",
        ),
        (
            {"cross_attention_init": "copying", "encoder_hidden_size": 8},
            "cross_attention_init: copying needs an encoder as wide as the decoder, 16, got encoder_hidden_size 8",
        ),
        ({"encoder_hidden_dropout": 1.0}, "encoder_hidden_dropout: expected at least 0 and below 1, got 1.0"),
        ({"encoder_attention_dropout": -0.1}, "encoder_attention_dropout"),
        ({"encoder_hidden_size": 10, "encoder_num_attention_heads": 4}, "the encoder's part: .*num_attention_heads"),
        ({"encoder_hidden_size": -16}, "the encoder's part"),
        (
            {"decoder": replace(DECODER, head_dim=5, position_embedding="learned"), "encoder_rotary": False},
            "cross_rotary: expected an even number of rotating channels, got 5 of the decoder's head_dim 5",
        ),
    ],
)
def test_impossible_values_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="RetroConfig: unknown gates; the fields are decoder, retro_layers"):
        RetroConfig.from_dict({"decoder": asdict(DECODER), "gates": 1})
    with pytest.raises(ValueError, match="GPTConfig: unknown depth"):
        RetroConfig.from_dict({"decoder": {"depth": 1}})


def test_the_retrieved_length_is_that_of_its_chunks() -> None:
    assert RetroConfig(GPTConfig(9, 8, 6, 1, 64)).retrieved_length == 128


def test_a_config_without_a_decoder_is_one_of_no_model() -> None:
    around = replace(TINY, decoder=None)
    assert replace(around, decoder=DECODER) == TINY
    with pytest.raises(ValueError, match=r"RetroConfig.decoder: expected the config of a GPT, got none; a recipe"):
        Retro(around)
    with pytest.raises(ValueError, match="chunk_length"):
        replace(around, chunk_length=0)
