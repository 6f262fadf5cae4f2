"""Tensor parallelism for our models: which part of each matrix product a device does.

The devices of a group read the same samples, and each has the whole residual stream. Of every attention a device has
some of the heads (with grouped queries some of the groups), of every MLP some of the channels, in the decoder, the
encoder and the cross-attention; what they put out is added up over the group. It has some rows of the vocabulary too.

    qkv, query, key_value, gate, up   cut by rows      output of an attention, down   cut by columns
    embedding, output                 cut by rows      norms                          whole
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from retrolit.models import GPT, Retro, chunked_cross_entropy
from retrolit.models.attention import SelfAttention
from retrolit.models.cross_attention import CrossAttention
from retrolit.models.layer import TransformerLayer
from retrolit.models.lora import LoRALinear
from retrolit.models.loss import Softmax
from retrolit.planning.activations import tensor_parallel_share

CUT_BY_ROWS = ("qkv", "query", "key_value", "gate", "up")
CUT_BY_COLUMNS = ("output", "down")
OF_HEADS = ("query_norm", "key_norm")


def parallelize(model: GPT | Retro, mesh: DeviceMesh) -> None:
    """Have the devices of the mesh (one axis) share the products of a model on the meta device.

    Raises ValueError where heads, groups, channels or vocabulary cannot be shared out evenly, or there are adapters.
    """
    try:
        tensor_parallel_share(model.config, mesh.size())
    except ValueError as error:
        raise ValueError(f"trainer.strategy.{error}") from error
    if any(isinstance(part, LoRALinear) for part in model.modules()):
        raise ValueError(
            f"trainer.strategy.tensor_parallel: expected 1 with model.lora, got {mesh.size()}; adapters are not shared "
            "out, and a model that has them fits with fsdp2.yaml"
        )
    for layer in model.modules():
        if isinstance(layer, TransformerLayer):
            named = {name: _style(name.rpartition(".")[2]) for name, _ in layer.named_modules()}
            parallelize_module(layer, mesh, {name: style for name, style in named.items() if style is not None})
            for part in layer.modules():
                if isinstance(part, SelfAttention | CrossAttention):
                    part.num_heads //= mesh.size()
                if isinstance(part, SelfAttention):
                    part.num_groups //= mesh.size()
    decoder = model.decoder if isinstance(model, Retro) else model
    parallelize_module(decoder.embedding, mesh, RowwiseParallel(input_layouts=Replicate()))
    if decoder.output is not None:
        parallelize_module(decoder.output, mesh, ColwiseParallel())
    decoder.cross_entropy = VocabularyCrossEntropy(mesh)


def _style(name: str) -> ParallelStyle | None:
    """How a layer's part of this name is shared out."""
    if name in CUT_BY_ROWS:
        return ColwiseParallel()
    if name in CUT_BY_COLUMNS:
        return RowwiseParallel()
    # A norm that all heads share: its gradient is the sum over the devices' heads, (B, H, T, C).
    return SequenceParallel(sequence_dim=1, use_local_output=True) if name in OF_HEADS else None


class VocabularyCrossEntropy:
    """`chunked_cross_entropy` where each device has some rows of the output weight, and so some of the logits."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def __call__(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, softmax: Softmax | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `chunked_cross_entropy`, the weight a DTensor of the mesh; a `softmax` of whole rows is not used."""
        assert isinstance(weight, DTensor)
        # Whole on each device; the gradients that come back are of the device's logits alone, and are added up.
        hidden = DTensor.from_local(hidden, self.mesh, [Replicate()], run_check=False)
        hidden = hidden.to_local(grad_placements=[Partial()])
        return chunked_cross_entropy(hidden, weight.to_local(), labels, weights, self._softmax)

    def _softmax(self, logits: Tensor, labels: Tensor, weights: Tensor, differentiate: bool) -> Tensor:
        """`softmax_over_logits` of rows of which this device has a part, (rows, V / devices)."""
        group, rows = self.mesh.get_group(), logits.shape[1]
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        largest = exact.amax(-1, keepdim=True)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group)
        exact = exact - largest
        place = labels - self.mesh.get_local_rank() * rows
        here = (place >= 0) & (place < rows)
        picked = place.clamp(0, rows - 1)[:, None]
        logit = exact.gather(-1, picked).squeeze(-1).where(here, 0)
        exponentials = exact.exp_()
        sums = torch.stack([exponentials.sum(-1), logit])
        dist.all_reduce(sums, group=group)
        total, logit = sums
        if differentiate:
            exponentials.mul_((weights / total)[:, None]).scatter_add_(-1, picked, -(weights * here)[:, None])
            logits.copy_(exponentials)
        return total.log() - logit
