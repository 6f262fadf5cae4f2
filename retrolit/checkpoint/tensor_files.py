"""Named tensors in safetensors files: one file, or several with an index once they are large."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from retrolit.models.lazy_tensors import LazyTensors

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 4 * 10**9
"""A file is closed before it grows beyond this; the most that writing holds in memory."""


class TensorFolder(LazyTensors):
    """The tensors of a folder's safetensors files by name, each read from disk when it is asked for.

    Raises FileNotFoundError when the folder has none of these files or lacks one that its index names, ValueError when
    one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, safetensors.safe_open] = {}
        for path in _files_of(folder):
            try:
                opened = safetensors.safe_open(path, framework="pt")
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch or make it again") from error
            self._files |= dict.fromkeys(opened.keys(), opened)
        super().__init__(self._files, lambda name: self._files[name].get_tensor(name))

    def slice_of(self, name: str) -> Any:
        """The tensor unread: `get_shape()`, and what it is indexed with slices is what is read."""
        return self._files[name].get_slice(name)


def write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the tensors into safetensors files of at most `shard_bytes` (a single larger tensor has its own).

    They are taken one by one: no more than one file's worth is held in memory.
    """
    shards: list[list[str]] = []
    waiting: dict[str, Tensor] = {}
    total = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if waiting and _size(waiting) + size > shard_bytes:
            shards.append(_write_shard(waiting, folder, len(shards)))
            waiting = {}
        waiting[name] = tensor.cpu().contiguous()
        total += size
    shards.append(_write_shard(waiting, folder, len(shards)))
    if len(shards) == 1:
        os.replace(folder / _shard_name(0), folder / SINGLE_FILE)
        return
    file_of = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        os.replace(folder / _shard_name(number), folder / final)
        file_of |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_shard(tensors: dict[str, Tensor], folder: Path, number: int) -> list[str]:
    # transformers reads a file only when its metadata says which framework's tensors these are
    safetensors.torch.save_file(tensors, folder / _shard_name(number), metadata={"format": "pt"})
    return list(tensors)


def _shard_name(number: int) -> str:
    return f"model-{number + 1:05d}.safetensors"


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _files_of(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        raise FileNotFoundError(f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}, the files with the weights")
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: missing, but {INDEX_FILE} names it; fetch or make the folder again")
    return files
