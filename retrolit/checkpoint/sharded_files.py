"""A sharded training checkpoint: a folder that many processes wrote together, in torch.distributed.checkpoint's format.

    .metadata       which part of which tensor lies where: a pickle of torch's, read with an allow-list
    __0_0.distcp    the parts that process 0 wrote; one such file a process
    meta.pt         what is no tensor of the model or of the optimizer: settings, counters, parameter groups

Tensors are named state_dict.NAME (the model's) and optimizer_0.state.NAME.KEY (the optimizer's, by the weight's name).
Who wrote how much of a tensor does not matter to a reader: the parts say where they belong.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from retrolit.checkpoint.model_folder import SHARDED_FILE
from retrolit.checkpoint.storage_metadata import load_storage_metadata
from retrolit.models.lazy_tensors import LazyTensors

REST_FILE = "meta.pt"
WEIGHTS = "state_dict."
OPTIMIZER = "optimizer_0.state."


class ShardedCheckpoint(LazyTensors):
    """The tensors of a sharded checkpoint by their full name, each put together from its parts when it is asked for.

    Nothing of the files is ever run. Raises ValueError where the folder is not whole, holds other things than tensors,
    or asks for anything that checkpoints do not need.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.metadata: Metadata = load_storage_metadata(self.folder / SHARDED_FILE)
        self._check()
        super().__init__(self.metadata.state_dict_metadata, self._read)

    def rest(self) -> dict[str, Any]:
        """What meta.pt holds: a Lightning checkpoint without its tensors, the optimizer's groups named by weight."""
        path = self.folder / REST_FILE
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path}: damaged, or it holds more than tensors and plain values") from error

    def part(self, prefix: str) -> Mapping[str, Tensor]:
        """The tensors whose names begin so, by the rest of their names."""
        names = [name.removeprefix(prefix) for name in self if name.startswith(prefix)]
        return LazyTensors(names, lambda name: self[prefix + name])

    def whole(self) -> dict[str, Any]:
        """As one file of one process would be: all tensors in memory, the optimizer's state by number."""
        rest, states = self.rest(), {}
        for name, tensor in self.part(OPTIMIZER).items():
            weight, _, key = name.rpartition(".")
            states.setdefault(weight, {})[key] = tensor
        optimizers = [by_number({"state": states} | optimizer) for optimizer in rest["optimizer_states"]]
        return rest | {"state_dict": dict(self.part(WEIGHTS)), "optimizer_states": optimizers}

    def reader(self) -> FileSystemReader:
        """For torch.distributed.checkpoint, of which each process reads what it needs."""
        return _Reader(self)

    def _read(self, name: str) -> Tensor:
        stored = self.metadata.state_dict_metadata[name]
        assert isinstance(stored, TensorStorageMetadata)
        tensor = torch.empty(stored.size, dtype=stored.properties.dtype)
        for part in stored.chunks:
            place = self.metadata.storage_data[MetadataIndex(name, part.offsets)]
            with open(self.folder / place.relative_path, "rb") as file:
                file.seek(place.offset)
                content = io.BytesIO(file.read(place.length))
            target = tensor
            for dim, (start, length) in enumerate(zip(part.offsets, part.sizes, strict=True)):
                target = target.narrow(dim, start, length)
            target.copy_(torch.load(content, map_location="cpu", weights_only=True))
        return tensor

    def _check(self) -> None:
        others = [name for name, stored in self.metadata.state_dict_metadata.items()
                  if not isinstance(stored, TensorStorageMetadata)]  # fmt: skip
        if others:
            raise ValueError(
                f"{self.folder}: expected nothing but tensors, got {others[0]} and {len(others) - 1} more objects; "
                "it was not written by retrolit's training"
            )
        ends: dict[str, int] = {}
        for place in self.metadata.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise ValueError(f"{self.folder}: its {SHARDED_FILE} names a file elsewhere, {place.relative_path}")
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
        for name, end in ends.items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else 0
            if size < end:
                raise ValueError(
                    f"{path}: expected {end:,} bytes, as {SHARDED_FILE} says, got {size:,}; the checkpoint is damaged"
                )
        if not (self.folder / REST_FILE).is_file():
            raise ValueError(f"{self.folder / REST_FILE}: the file is missing; the checkpoint is damaged")


class _Reader(FileSystemReader):
    """torch's reader, which would unpickle .metadata freely, with what is already read of it."""

    def __init__(self, checkpoint: ShardedCheckpoint) -> None:
        super().__init__(checkpoint.folder)
        self._metadata = checkpoint.metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Without opening the file."""
        return self._metadata


def by_number(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state by weights' names -> by their numbers, counted through the groups, as torch keeps it."""
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    number = {name: place for place, name in enumerate(names)}
    groups = [group | {"params": [number[name] for name in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {number[name]: state for name, state in optimizer["state"].items()}, "param_groups": groups}


def by_name(optimizer: Mapping[str, Any], names: list[list[str]]) -> dict[str, Any]:
    """As `by_number`, back; `names` are those of each group's weights, in order."""
    flat = [name for group in names for name in group]
    groups = [group | {"params": own} for group, own in zip(optimizer["param_groups"], names, strict=True)]
    return {"state": {flat[number]: state for number, state in optimizer["state"].items()}, "param_groups": groups}
