"""The bytes of the tensors that are alive, counted while real (or fake) steps run: what the arithmetic is held to.

Every storage that an operation returns counts from then until Python and autograd have let it go, views once, those on
the meta device not at all. It is what a perfect allocator would use; on a GPU `torch.cuda.max_memory_allocated` rounds
each up to 512 bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOOK_AGAIN = 100


class LiveMemory(TorchDispatchMode):
    """Counts inside its `with` block; tensors that were there before are `known`, or never counted.

    Storages that change their size (FSDP empties and fills those of gathered weights) are looked at again every so many
    operations, and before a new peak is believed, so that the peak may be a two-hundredth too low.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = 0
        """Alive now."""
        self.peak = 0
        """The most that were alive at once; may be set back."""
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._sizes: dict[int, int] = {}
        self._storages: dict[int, weakref.ref] = {}
        self._operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # The memory of a DTensor is that of its part, which an operation inside this one has returned.
            if isinstance(leaf, Tensor) and leaf.device.type != "meta" and not isinstance(leaf, DTensor):
                self._count(leaf)
        self._operations += 1
        if self._operations % LOOK_AGAIN == 0 or self.bytes > 1.005 * self.peak:
            self._look_again()
        self.peak = max(self.peak, self.bytes)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self._storages[key] = weakref.ref(storage)
        weakref.finalize(storage, self._forget, key)

    def _look_again(self) -> None:
        for key, reference in list(self._storages.items()):
            storage = reference()
            if storage is not None and storage.nbytes() != self._sizes[key]:
                self.bytes += storage.nbytes() - self._sizes[key]
                self._sizes[key] = storage.nbytes()

    def _forget(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)
        del self._storages[key]
