"""Rotary position embedding: each pair of channels is turned by position x frequency.

Pairs are (i, i + rotary_dim / 2), the "rotate half" layout of GPT-NeoX, Llama and Megatron. Channels from rotary_dim
on pass unchanged. Angles are computed in float64 and kept as float32 cosines and sines, whatever the model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retrolit.models.config import GPTConfig, RopeScaling

Rotation = tuple[Tensor, Tensor]
"""Cosines of all rotating channels, (T, rotary_dim), and sines of their first half, (T, rotary_dim / 2), float32; or
(B, 1, T, ...) each where rows differ."""


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
        """The rotation of positions start .. end - 1."""
        cos, sin = self._up_to(end, device)
        return cos[start:end], sin[start:end]

    def at(self, positions: Tensor, end: int) -> Rotation:
        """The rotation of `positions`, (B, T) all below `end`, one for all heads."""
        cos, sin = self._up_to(end, positions.device)
        return cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)

    def _up_to(self, end: int, device: torch.device) -> Rotation:
        if end > self._length:
            self._length = max(end, 2 * self._length)
            self._tables.clear()
        if device not in self._tables:
            positions = torch.arange(self._length, dtype=torch.float64, device="cpu")
            angles = torch.outer(positions, rotary_frequencies(self._config))
            cosines = angles.cos().float().repeat(1, 2)
            self._tables[device] = (cosines.to(device), angles.sin().float().to(device))
        return self._tables[device]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (B, H, T, head_dim) with its first rotary_dim channels turned; computed in float32, returned in x's dtype."""
    if not torch.is_grad_enabled():  # the call of a Function takes as long as turning the query of one token
        return _rotated(x.transpose(1, 2), *rotation).transpose(1, 2)
    return cast(Tensor, _Rotate.apply(x, *rotation))


def rotate_parts(joint: Tensor, sizes: Sequence[int], num_rotated: int, rotation: Rotation) -> tuple[Tensor, ...]:
    """The parts of a joint projection, the first ones rotated: query, key and value, or key and value.

    joint (B, T, G, sum of sizes, head_dim) -> for each size (B, G x size, T, head_dim). Where there will be a backward
    pass, nothing returned is a view, so that the joint projection is not kept for it, and the gradients of the parts
    are written side by side as they are rotated back.
    """
    if not torch.is_grad_enabled():
        parts = _rotated_parts(joint, *rotation, tuple(sizes), num_rotated)
        return tuple(part.transpose(1, 2) for part in parts)
    return cast(tuple[Tensor, ...], _RotateParts.apply(joint, *rotation, tuple(sizes), num_rotated))


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x.transpose(1, 2), cos, sin).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _rotated(grad_outputs[0].transpose(1, 2), cos, -sin).transpose(1, 2), None, None


class _RotateParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, joint: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, ...], num_rotated: int
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.sizes, ctx.num_rotated = sizes, num_rotated
        parts = _rotated_parts(joint, cos, sin, sizes, num_rotated)
        parts[num_rotated:] = [part.clone() for part in parts[num_rotated:]]
        return tuple(part.transpose(1, 2) for part in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        grads = [grad.transpose(1, 2) for grad in grad_outputs]  # (B, T, G x size, head_dim)
        grads[: ctx.num_rotated] = [_rotated(grad, cos, -sin) for grad in grads[: ctx.num_rotated]]
        parts = [grad.unflatten(2, (-1, size)) for grad, size in zip(grads, ctx.sizes, strict=True)]
        return torch.cat(parts, dim=3), None, None, None, None


def _rotated_parts(joint: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, ...], num_rotated: int) -> list[Tensor]:
    """The parts (B, T, G x size, head_dim) of a joint projection, the first ones rotated in new memory."""
    parts = [part.flatten(2, 3) for part in joint.split(sizes, dim=3)]
    return [_rotated(part, cos, sin) for part in parts[:num_rotated]] + parts[num_rotated:]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, head_dim) rotated, in new memory."""
    if cos.dim() == 4:
        cos, sin = cos.transpose(1, 2), sin.transpose(1, 2)  # (B, T, 1, ...)
    else:
        cos, sin = cos[:, None], sin[:, None]  # (T, 1, ...)
        if x.shape[0] > 1 and x.device.type == "cpu":
            # Written out for every head: half the time, because torch's loops then run over tokens and heads as one.
            cos, sin = (table.expand(-1, x.shape[2], -1).contiguous() for table in (cos, sin))
    half, width = sin.shape[-1], cos.shape[-1]
    rotated = x[..., :width] * cos  # float32, or wider
    rotated[..., :half].addcmul_(x[..., half:width], sin, value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sin)
    rotated = rotated.to(x.dtype)
    return rotated if width == x.shape[-1] else torch.cat([rotated, x[..., width:]], dim=-1)
