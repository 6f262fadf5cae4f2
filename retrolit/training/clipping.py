"""Gradient clipping by the norm over all weights, wherever they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients in place so that their joint norm is at most `max_norm`; gives the norm before.

    None only measures. Sharded gradients are grouped by their mesh of devices, since torch cannot put the norms of
    different meshes, or of plain and sharded tensors, together by itself.
    """
    groups: dict[object, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if isinstance(parameter.grad, DTensor) else None
            groups[mesh].append(parameter)
    squares = []
    for group in groups.values():
        norm = nn.utils.get_total_norm([parameter.grad for parameter in group if parameter.grad is not None])
        squares.append((norm.full_tensor() if isinstance(norm, DTensor) else norm).float() ** 2)
    total = torch.stack(squares).sum().sqrt()
    if max_norm is not None:
        for mesh, group in groups.items():
            nn.utils.clip_grads_with_norm_(group, max_norm, total, foreach=None if mesh is None else False)
    return total
