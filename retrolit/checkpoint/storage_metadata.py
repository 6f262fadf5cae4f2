"""torch.distributed.checkpoint's list of contents, .metadata, read without running anything it asks for.

The file is a bare pickle, and a pickle may name any function and call it; torch itself reads it freely. Here it is read
with the few classes that such a list is made of, and with no other.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as parts
from torch.serialization import _get_layout

# By the names in the file; types of numbers (torch.float32) come in addition.
ALLOWED: dict[str, Callable[..., Any]] = {
    "torch.Size": torch.Size,
    "torch.serialization._get_layout": _get_layout,
    "torch.distributed.checkpoint.filesystem._StorageInfo": filesystem._StorageInfo,
} | {
    f"torch.distributed.checkpoint.metadata.{part.__name__}": part
    for part in (parts.Metadata, parts.MetadataIndex, parts.StorageMeta, parts.TensorStorageMetadata,
                 parts.BytesStorageMetadata, parts.TensorProperties, parts.ChunkStorageMetadata,
                 parts._MEM_FORMAT_ENCODING)
}  # fmt: skip


def load_storage_metadata(path: Path) -> parts.Metadata:
    """The list of contents in this file.

    Raises FileNotFoundError where there is none, ValueError for a file that is damaged or names anything else than what
    such a list is made of.
    """
    with open(path, "rb") as file:
        try:
            content = _Unpickler(file).load()
        except _RefusedError as error:
            raise ValueError(
                f"{path}: asks for {error}, which a checkpoint does not need; that was not run. Do not trust it"
            ) from None
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
            raise ValueError(f"{path}: damaged, or not torch's list of a checkpoint's contents ({reason})") from error
    if not isinstance(content, parts.Metadata):
        raise ValueError(f"{path}: expected torch's list of a checkpoint's contents, got a {type(content).__name__}")
    return content


class _RefusedError(Exception):
    """A name that is not on the list."""


class _Unpickler(pickle.Unpickler):
    """Knows what is allowed, and imports nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What a name in the file stands for."""
        name = f"{module_name}.{global_name}"
        if name in ALLOWED:
            return ALLOWED[name]
        dtype = getattr(torch, global_name, None) if module_name == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise _RefusedError(name)
