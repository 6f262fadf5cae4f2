"""Gradient clipping by the norm over all weights, wherever they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients in place so that their joint norm is at most `max_norm`; gives the norm before, in float32.

    None only measures. Of sharded gradients each process measures its own parts. They are grouped by the axes of their
    mesh of devices over which the squares have to be added up, which torch does not do by itself for gradients of
    several meshes, or for plain and sharded ones together.
    """
    groups: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            mesh, placements = gradient.device_mesh, gradient.placements
            over = tuple(mesh.get_group(axis) for axis, place in enumerate(placements) if not place.is_replicate())
            groups[over].append(gradient.to_local())
        elif gradient is not None:
            groups[()].append(gradient)
    squares = []
    for over, parts in groups.items():
        norms = torch._foreach_norm(parts, dtype=torch.float32)  # pyright: ignore[reportPrivateImportUsage]
        square = torch.linalg.vector_norm(torch.stack(norms)) ** 2
        for group in over:
            dist.all_reduce(square, group=group)
        squares.append(square)
    total = torch.stack(squares).sum().sqrt()
    if max_norm is not None:
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for parts in groups.values():
            torch._foreach_mul_(parts, scale)  # pyright: ignore[reportPrivateImportUsage]
    return total
