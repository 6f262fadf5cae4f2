"""The kinds of model that a folder can hold, and what conversions ask of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.models.lazy_tensors import LazyTensors

Model = GPT | Retro
Config = GPTConfig | RetroConfig
CONFIGS: dict[str, type[GPTConfig] | type[RetroConfig]] = {"gpt": GPTConfig, "retro": RetroConfig}
"""By the `model_type` of a config.json."""

DECODER = "decoder."
"""What a Retro's tensors that a GPT has too are called by, before the GPT's name."""


def model_type_of(config: Config) -> str:
    """The `model_type` of this config."""
    return next(name for name, kind in CONFIGS.items() if isinstance(config, kind))


def kind_of(config: Config) -> str:
    """What people call a model of this config."""
    return "Retro" if isinstance(config, RetroConfig) else "GPT"


def empty_model(config: Config) -> Model:
    """A model of this config without memory, on the meta device."""
    with torch.device("meta"):
        return Retro(config) if isinstance(config, RetroConfig) else GPT(config)


def tensor_shapes(config: Config) -> dict[str, torch.Size]:
    """Name and shape of every tensor that a model of this config has."""
    return {name: tensor.shape for name, tensor in empty_model(config).state_dict().items()}


def decoder_of(config: Config) -> GPTConfig:
    """The GPT in it, or that it is."""
    return config.decoder if isinstance(config, RetroConfig) else config


def with_vocab_size(config: Config, size: int) -> Config:
    """The config of the same model with this vocabulary."""
    decoder = replace(decoder_of(config), vocab_size=size)
    return replace(config, decoder=decoder) if isinstance(config, RetroConfig) else decoder


def without_retrieval(config: Config, tensors: Mapping[str, Tensor]) -> tuple[GPTConfig, Mapping[str, Tensor]]:
    """The decoder of a Retro as a GPT, its tensors still read when they are asked for; a GPT as it is."""
    if isinstance(config, GPTConfig):
        return config, tensors
    names = [name.removeprefix(DECODER) for name in tensors if name.startswith(DECODER)]
    kept = [name for name in names if "cross_attention" not in name]
    return config.decoder, LazyTensors(kept, lambda name: tensors[DECODER + name])
