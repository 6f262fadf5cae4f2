"""Sharded checkpoints: any division into parts reads back the same, and nothing but tensors is ever read."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from retrolit.checkpoint import load_model
from retrolit.checkpoint.consolidate import consolidate
from retrolit.checkpoint.sharded_files import OPTIMIZER, ShardedCheckpoint, by_name, by_number
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer, load_tokenizer

CONFIG = GPTConfig(vocab_size=257, hidden_size=8, num_layers=1, num_attention_heads=2, max_position_embeddings=16)


def _write(folder: Path, tensors: dict[str, torch.Tensor], rest: dict, cuts: tuple[int, ...] = ()) -> None:
    """A checkpoint as processes write one: each tensor cut at these rows, each part in the next process's file."""
    folder.mkdir()
    files = [io.BytesIO() for _ in range(len(cuts) + 1)]
    stored, places = {}, {}
    for name, tensor in tensors.items():
        borders = [0, *(min(cut, len(tensor)) for cut in cuts), len(tensor)] if tensor.ndim else [0, 1]
        parts = []
        for number, (begin, end) in enumerate(pairwise(borders)):
            part = tensor[begin:end].clone() if tensor.ndim else tensor
            if part.numel():
                offsets = torch.Size([begin, *[0] * (tensor.ndim - 1)] if tensor.ndim else [])
                parts.append(ChunkStorageMetadata(offsets, part.shape))
                start = files[number].tell()
                torch.save(part, files[number])
                info = _StorageInfo(f"__{number}_0.distcp", start, files[number].tell() - start)
                places[MetadataIndex(name, offsets)] = info
        stored[name] = TensorStorageMetadata(TensorProperties(tensor.dtype), tensor.shape, parts)
    for number, file in enumerate(files):
        (folder / f"__{number}_0.distcp").write_bytes(file.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(stored, None, places)))
    torch.save(rest, folder / "meta.pt")


def _of_a_gpt(folder: Path, cuts: tuple[int, ...] = (3, 8)) -> GPT:
    gpt = GPT(CONFIG)
    tensors = {f"state_dict.model.{name}": tensor for name, tensor in gpt.state_dict().items()}
    rest = {"retrolit": {"model_type": "gpt", "config": asdict(CONFIG)}, "global_step": 7, "optimizer_states": []}
    _write(folder, tensors, rest, cuts)
    return gpt


@pytest.mark.parametrize("cuts", [(), (1,), (2, 5), (0, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_division_reads_back_the_same(cuts, dtype, tmp_path):
    tensors = {"a": torch.randn(6, 3).to(dtype), "b": torch.randn(5).to(dtype), "step": torch.tensor(4.0)}
    _write(tmp_path / "c", tensors, {"global_step": 4}, cuts)
    checkpoint = ShardedCheckpoint(tmp_path / "c")
    assert set(checkpoint) == set(tensors)
    for name, tensor in tensors.items():
        assert checkpoint[name].dtype == tensor.dtype
        assert torch.equal(checkpoint[name], tensor)
    assert checkpoint.rest() == {"global_step": 4}


def test_one_process_reads_it_as_its_own_file(tmp_path):
    """AdamW counts its weights group by group, not in the model's order."""
    weights = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in
               {"first": (4, 2), "norm": (4,), "last": (3, 4)}.items()}  # fmt: skip
    groups = [["first", "last"], ["norm"]]
    optimizer = torch.optim.AdamW([{"params": [weights[name] for name in group]} for group in groups])
    sum((weight**2).sum() for weight in weights.values()).backward()
    optimizer.step()
    whole = optimizer.state_dict()
    named = by_name(whole, groups)
    assert named["state"]["last"]["exp_avg"].shape == (3, 4)
    assert by_number(named) == whole
    tensors = {f"{OPTIMIZER}{name}.{key}": value for name, state in named["state"].items()
               for key, value in state.items()}  # fmt: skip
    _write(tmp_path / "c", tensors, {"optimizer_states": [{"param_groups": named["param_groups"]}]}, (2,))
    read = ShardedCheckpoint(tmp_path / "c").whole()["optimizer_states"][0]
    assert read["param_groups"] == whole["param_groups"]
    for number, state in whole["state"].items():
        assert all(torch.equal(read["state"][number][key], value) for key, value in state.items())


def test_a_model_folder_is_made_of_it(tmp_path):
    gpt = _of_a_gpt(tmp_path / "c")
    ByteTokenizer().save(tmp_path)
    notes = consolidate(tmp_path / "c", tmp_path / "with", tmp_path)
    assert notes == ["16 tensors of a sharded checkpoint"]
    assert load_tokenizer(tmp_path / "with").vocab_size == 257
    assert "no tokenizer" in consolidate(tmp_path / "c", tmp_path / "without")[1]
    for path in ("c", "with", "without"):
        state = load_model(tmp_path / path).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in gpt.state_dict().items())
    with pytest.raises(ValueError, match="expected a training checkpoint, got a folder that is none; name a run's"):
        consolidate(tmp_path / "with", tmp_path / "again")


class _Command:
    """What a pickle can ask for."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_nothing_that_it_asks_for_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _of_a_gpt(tmp_path / "c")
    metadata = ShardedCheckpoint("c").metadata
    metadata.planner_data = _Command()
    Path("c/.metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"\.metadata: asks for posix.mkdir, which a checkpoint does not need"):
        ShardedCheckpoint("c")
    metadata.planner_data = None
    Path("c/.metadata").write_bytes(pickle.dumps(metadata))
    torch.save(_Command(), "c/meta.pt")
    with pytest.raises(ValueError, match=r"meta\.pt: damaged, or it holds more than tensors and plain values"):
        ShardedCheckpoint("c").rest()
    assert not Path("hacked").exists()


def test_what_is_not_whole_is_refused(tmp_path):
    _of_a_gpt(tmp_path / "c")

    def damaged(**change) -> str:
        shutil.copytree(tmp_path / "c", tmp_path / "d")
        for name, content in change.items():
            path = tmp_path / "d" / {"metadata": ".metadata", "rest": "meta.pt", "part": "__1_0.distcp"}[name]
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            ShardedCheckpoint(tmp_path / "d")
        shutil.rmtree(tmp_path / "d")
        return str(raised.value)

    metadata, part = (tmp_path / "c/.metadata").read_bytes(), (tmp_path / "c/__1_0.distcp").read_bytes()
    assert "No such file" in damaged(metadata=None)
    assert "damaged, or not torch's list of a checkpoint's contents" in damaged(metadata=metadata[:-30])
    assert "expected torch's list of a checkpoint's contents, got a int" in damaged(metadata=pickle.dumps(3))
    assert "meta.pt: the file is missing" in damaged(rest=None)
    assert f"__1_0.distcp: expected {len(part):,} bytes" in damaged(part=part[:-1])
    assert "got 0; the checkpoint is damaged" in damaged(part=None)
    listed = pickle.loads(metadata)
    listed.storage_data[MetadataIndex("x", torch.Size([0]))] = _StorageInfo("../elsewhere", 0, 1)
    assert "names a file elsewhere, ../elsewhere" in damaged(metadata=pickle.dumps(listed))
    listed = pickle.loads(metadata)
    listed.state_dict_metadata["settings"] = BytesStorageMetadata()
    assert "expected nothing but tensors, got settings and 0 more objects" in damaged(metadata=pickle.dumps(listed))


def test_another_torch_checkpoint_is_no_model(tmp_path):
    _write(tmp_path / "c", {"state_dict.weight": torch.ones(2)}, {"global_step": 1})
    with pytest.raises(ValueError, match="c: expected a checkpoint of retrolit's training, got another torch file"):
        load_model(tmp_path / "c")
