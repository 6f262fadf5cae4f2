"""Checkpoints of a model that is shared out among processes: each writes its own part, and reads the part it needs."""

from __future__ import annotations

import io
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.optim import Optimizer

from retrolit.checkpoint.model_folder import is_sharded
from retrolit.checkpoint.sharded_files import REST_FILE, WEIGHTS, ShardedCheckpoint, by_name
from retrolit.checkpoint.tables import refuse_other_names
from retrolit.storage import atomic_write
from retrolit.storage.files import rename_folder


class ShardedCheckpoints(ModelParallelStrategy):
    """Lightning's strategy, with checkpoints that are whole or not there, written while training goes on.

    A checkpoint is a folder (see `checkpoint/sharded_files.py`). It is copied into the memory of the CPU, which is what
    training waits for, and written by a thread of each process into a folder of another name, which is renamed when
    every part is on the disk. Any number of processes goes on from it, and from one file of one process.
    Nothing that is read is unpickled freely.
    """

    _saving: tuple[Path, Future[Any]] | None = None
    _saving_group: Any = None
    _stager: DefaultStager | None = None
    """Copies to CPU memory, which it keeps: fresh memory is as slow as a disk."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, each process its part of them."""
        assert self.model is not None
        return get_model_state_dict(self.model)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Of the optimizer, by weights' names, each process its part of them."""
        assert self.model is not None
        return get_optimizer_state_dict(self.model, _bare(optimizer))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Begin to write a checkpoint; one that is still being written is waited for."""
        self.finish_saving()
        path = Path(self.broadcast(str(filepath)))
        optimizers = checkpoint.pop("optimizer_states", [])
        tensors = {"state_dict": checkpoint.pop("state_dict")}
        for number, optimizer in enumerate(optimizers):
            tensors[f"optimizer_{number}"] = {"state": optimizer["state"]}
        rest = checkpoint | {"optimizer_states": [{"param_groups": own["param_groups"]} for own in optimizers]}
        if self._saving_group is None or self._stager is None:
            # Of its own: the threads that write talk to each other while training does.
            self._saving_group = dist.new_group(backend="gloo")
            pinned = self.root_device.type == "cuda"
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=pinned,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=pinned,
                )
            )
        saving: Any = async_save(
            tensors,
            storage_writer=_Writer(path, rest),
            process_group=self._saving_group,
            async_stager=self._stager,
        )
        self._saving = path, saving

    def finish_saving(self) -> None:
        """Wait until the checkpoint that is being written is on the disk. Raises OSError where it could not be."""
        if self._saving is None:
            return
        (path, saving), self._saving = self._saving, None
        try:
            saving.result()
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise OSError(f"{path}: the checkpoint could not be written ({cause}); the ones before are kept") from error

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read weights and optimizer from a folder or one file, each process its part; what else there is comes back.

        Raises ValueError where it is of another model, and in training where it is of other settings.
        """
        assert self.lightning_module is not None
        self.finish_saving()
        path = Path(self.broadcast(str(checkpoint_path)))
        sharded = ShardedCheckpoint(path) if is_sharded(path) else None
        checkpoint = (
            torch.load(path, map_location="cpu", weights_only=True, mmap=True) if sharded is None else sharded.rest()
        )
        self.lightning_module.on_load_checkpoint(checkpoint)  # refuses settings by name, before shapes disagree
        if sharded is None:
            self._load_file(checkpoint)
        else:
            self._load_folder(sharded, checkpoint)
        return checkpoint

    def teardown(self) -> None:
        """As Lightning's, once nothing is being written any more."""
        self.finish_saving()
        if self._stager is not None:
            self._stager.close()
            self._stager = None
        super().teardown()

    def _load_folder(self, sharded: ShardedCheckpoint, rest: dict[str, Any]) -> None:
        assert self.model is not None
        weights = self.lightning_module_state_dict()
        refuse_other_names(weights, sharded.part(WEIGHTS), sharded.folder)
        load({"state_dict": weights}, storage_reader=sharded.reader())
        set_model_state_dict(self.model, weights)
        for number, (optimizer, saved) in enumerate(zip(self.optimizers, rest["optimizer_states"], strict=False)):
            state = self.optimizer_state(optimizer)
            load({f"optimizer_{number}": {"state": state["state"]}}, storage_reader=sharded.reader())
            set_optimizer_state_dict(self.model, _bare(optimizer), state | saved)

    def _load_file(self, checkpoint: dict[str, Any]) -> None:
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            names = [group["params"] for group in self.optimizer_state(optimizer)["param_groups"]]
            set_optimizer_state_dict(self.model, _bare(optimizer), by_name(saved, names), options=options)


class _Writer(FileSystemWriter):
    """Writes beside the checkpoint's own name; the first process gives the folder its name when all have written."""

    def __init__(self, path: Path, rest: dict[str, Any]) -> None:
        super().__init__(path.with_name(f".{path.name}.partial"))
        self.final_path = path
        buffer = io.BytesIO()
        torch.save(rest, buffer)  # now: training goes on and changes it
        self.rest = buffer.getbuffer()

    def finish(self, metadata: Any, results: Any) -> None:
        """Write what is no tensor, and give the folder its name; every part is on the disk by now."""
        super().finish(metadata, results)
        partial, final = Path(self.path), self.final_path
        with atomic_write(partial / REST_FILE) as file:
            file.write(self.rest)
        # Where something has the name, it is one that could not be read, or the same step's.
        if final.is_dir():
            shutil.rmtree(final)
        final.unlink(missing_ok=True)
        rename_folder(partial, final)

    def storage_meta(self) -> StorageMeta:
        """Nothing about the machine that it was written on."""
        return StorageMeta()


def _bare(optimizer: Optimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
