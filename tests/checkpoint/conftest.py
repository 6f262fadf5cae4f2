"""Small models whose every number is random, so that no mix-up can hide behind a gain of 1 or a bias of 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retrolit.models import GPT, GPTConfig


@pytest.fixture
def make_gpt() -> Callable[..., GPT]:
    """A function: config fields that differ from the small default -> a GPT in eval mode."""

    def make(**fields: Any) -> GPT:
        sizes = {"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 4}
        model = GPT(GPTConfig(**({**sizes, "max_position_embeddings": 48, "ffn_hidden_size": 40} | fields))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        return model

    return make
