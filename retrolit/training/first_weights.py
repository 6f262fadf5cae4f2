"""The weights a run begins with: drawn or read one tensor at a time, each process keeping its own part.

Every module draws from a generator of its own, seeded by the run's seed and the module's name, on the CPU. So the
weights are the same on any device, on any number of them and under any strategy, no process ever holds more of a
sharded model than its part and one tensor, and the decoder of a Retro begins as the GPT of that seed would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from retrolit.checkpoint.megatron_files import open_weights
from retrolit.checkpoint.model_types import DECODER, Config, decoder_of, tensor_shapes
from retrolit.checkpoint.tables import refuse_other_names
from retrolit.checkpoint.tensor_files import TensorFolder
from retrolit.models import GPT, Retro
from retrolit.models.copying import copying_weights
from retrolit.models.gpt import initialize
from retrolit.models.lora import LoRALinear


@dataclass(frozen=True)
class Stored:
    """A tensor in a file that a weight is taken from."""

    tensors: Mapping[str, Tensor]
    name: str
    path: Path

    def part(self, shape: torch.Size, index: tuple[slice, ...]) -> Tensor:
        """These rows and columns of it. Raises ValueError where it has another shape than this one."""
        stored = self.tensors.slice_of(self.name) if isinstance(self.tensors, TensorFolder) else self.tensors[self.name]
        found = tuple(stored.shape if isinstance(stored, Tensor) else stored.get_shape())
        if found != tuple(shape):
            raise ValueError(
                f"{self.path}: {self.name}: expected the shape {tuple(shape)} from the config, got {found}"
            )
        return stored[index]


def open_stored(path: Path, vocab_size: int, chunk_length: int | None = None) -> tuple[Config, dict[str, Stored]]:
    """Config and tensors, by name, of whatever `open_weights` opens; none of them is read yet.

    Raises FileNotFoundError, or ValueError where the tensors are not those of the config.
    """
    config, tensors = open_weights(path, vocab_size, chunk_length)
    refuse_other_names(tensor_shapes(config), tensors, path)
    return config, {name: Stored(tensors, name, path) for name in tensors}


@torch.no_grad()
def fill(model: GPT | Retro, whole: GPT | Retro, given: Mapping[str, Stored], seed: int) -> None:
    """Give each weight of `model` its first value: from `given` by its name, else drawn.

    `whole` is the same model on the meta device, as it is when nobody shares it out.
    """
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    for prefix, part in whole.named_modules():
        own = {name: f"{prefix}.{name}" for name in _own_tensors(part)}
        if not all(name in given for name in own.values()):
            draw(prefix, part.to_empty(device="cpu", recurse=False), whole, seed)
        for short, name in own.items():
            target = targets[name]
            local, index = _part_of(target)
            drawn = getattr(part, short)
            local.copy_(given[name].part(target.shape, index) if name in given else drawn[index])
        part.to("meta")


def draw(name: str, part: nn.Module, model: GPT | Retro, seed: int) -> None:
    """Fresh weights for the part of a model that has this name, by the rule of the model's `reset_parameters`."""
    generator = _generator(seed, name)
    decoder = decoder_of(model.config)
    initialize([(name, part)], decoder, generator)
    if isinstance(part, LoRALinear):
        part.reset_adapter(generator)
    attention, _, last = name.rpartition(".")
    if isinstance(model, Retro) and name.startswith(DECODER) and attention.endswith("cross_attention"):
        weight, begins = part.get_parameter("weight"), model.config.cross_attention_init
        if begins == "zero" and last == "output":
            weight.zero_()
        elif begins == "copying":
            assert decoder.head_dim is not None
            heads, together = (decoder.num_attention_heads, decoder.head_dim), _generator(seed, attention)
            weight.copy_(copying_weights(*heads, decoder.hidden_size, together)[last])


def _generator(seed: int, name: str) -> torch.Generator:
    """The random numbers of the part of a model that has this name."""
    digest = hashlib.sha256(f"{seed} {name.removeprefix(DECODER)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _own_tensors(part: nn.Module) -> list[str]:
    """The names of the part's parameters and buffers without those of its parts."""
    own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
    return [name for name, _ in own]


def _part_of(target: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """This process's part of a weight, and where in the whole it lies."""
    if not isinstance(target, DTensor):
        return target, tuple(slice(0, size) for size in target.shape)
    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    return target.to_local(), tuple(slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True))
