"""FSDP2 for our models: which weights are gathered together, and in which precision.

Every process holds a part of each tensor. The weights of a unit are gathered when it runs, and their gradients are
added up over the processes and shared out again when it has run backward. The units of a GPT:

    embedding | layer 1 | layer 2 | ... | final norm and output

Of a Retro the encoder's layers are units too. What is in no unit, the embedding among it where it is the output as
well, is gathered when the step begins and stays until it ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from retrolit.models import GPT, Retro
from retrolit.models.layer import TransformerLayer

# The cosines and sines of rotary positions are inputs of a layer and have to stay float32: nothing is cast.
MIXED_PRECISION = {
    "32-true": MixedPrecisionPolicy(),
    "bf16-true": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
    "bf16-mixed": MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False),
}
"""By the trainer's precision: what weights are gathered in, and what gradients are added up in."""


def shard(model: GPT | Retro, mesh: DeviceMesh, precision: str, cpu_offload: bool = False) -> None:
    """Make every weight a DTensor of which this process holds its part of the mesh (one axis); `loss` gathers them.

    With `cpu_offload` the parts lie in CPU memory, and AdamW runs there.
    """
    settings: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MIXED_PRECISION[precision],
        "offload_policy": CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if cpu_offload else OffloadPolicy(),
    }
    for part in list(model.modules()):
        if isinstance(part, TransformerLayer):
            fully_shard(part, **settings)
    decoder = model.decoder if isinstance(model, Retro) else model
    if decoder.output is not None:
        fully_shard(decoder.embedding, **settings)
        if decoder.final_norm is not None:
            # The loss reads the output's weight behind the norm, and the backward pass begins there.
            fully_shard([decoder.final_norm, decoder.output], reshard_after_forward=False, **settings)
    fully_shard(model, **settings)
    register_fsdp_forward_method(model, "loss")
