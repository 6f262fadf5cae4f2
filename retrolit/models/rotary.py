"""Rotary position embedding: each pair of channels is turned by position x frequency.

Pairs are (i, i + rotary_dim / 2), the "rotate half" layout of GPT-NeoX, Llama and Megatron. Channels from rotary_dim
on pass unchanged. Angles are computed in float64 and kept as float32 cosines and sines, whatever the model's dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrolit.models.config import GPTConfig, RopeScaling

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, float32, each (T, rotary_dim / 2), or (B, 1, T, rotary_dim / 2) where rows differ."""


def rotary_frequencies(config: GPTConfig) -> Tensor:
    """Radians a position, (rotary_dim / 2,) float64: base ** (-2 i / rotary_dim), stretched by `rope_scaling`."""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float64, device="cpu") / config.rotary_dim
    frequencies = config.rotary_base**-exponents
    return frequencies if config.rope_scaling is None else _stretch(frequencies, config.rope_scaling)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    if scaling.type == "linear":
        return frequencies / scaling.factor
    # llama3: how many turns a channel makes over the original length decides. Few (slow): divided by the factor.
    # Many (fast): kept. Between low_freq_factor and high_freq_factor turns: a linear ramp from one to the other.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


class RotaryTables:
    """Cosines and sines of every position up to the longest one seen, kept once a device.

    No module and no buffer: nothing of it enters a state dict, casts with the model, or is lost in a meta-device build.
    """

    def __init__(self, config: GPTConfig) -> None:
        self._config = config
        self._length = config.max_position_embeddings
        self._tables: dict[torch.device, Rotation] = {}

    def span(self, start: int, end: int, device: torch.device) -> Rotation:
        """The rotation of positions start .. end - 1, (T, rotary_dim / 2) each."""
        cos, sin = self._up_to(end, device)
        return cos[start:end], sin[start:end]

    def at(self, positions: Tensor, end: int) -> Rotation:
        """The rotation of `positions`, (B, T) all below `end`: (B, 1, T, rotary_dim / 2) each, one for all heads."""
        cos, sin = self._up_to(end, positions.device)
        return cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)

    def _up_to(self, end: int, device: torch.device) -> Rotation:
        if end > self._length:
            self._length = max(end, 2 * self._length)
            self._tables.clear()
        if device not in self._tables:
            positions = torch.arange(self._length, dtype=torch.float64, device="cpu")
            angles = torch.outer(positions, rotary_frequencies(self._config))
            self._tables[device] = (angles.cos().float().to(device), angles.sin().float().to(device))
        return self._tables[device]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (B, H, T, head_dim) with its first rotary_dim channels turned; computed in float32, returned in x's dtype."""
    cos, sin = rotation
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    turned_first = torch.addcmul(first * cos, second, sin, value=-1)
    turned_second = torch.addcmul(second * cos, first, sin)
    return torch.cat([turned_first.to(x.dtype), turned_second.to(x.dtype), x[..., 2 * half :]], dim=-1)
