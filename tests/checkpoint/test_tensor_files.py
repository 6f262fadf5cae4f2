"""Named tensors on disk: one file or several, read one by one, never half read."""

from __future__ import annotations

import json

import pytest
import torch

from retrolit.checkpoint.tensor_files import TensorFolder, write_tensors

TENSORS = {f"layers.{n}.weight": torch.randn(10, 10) for n in range(5)}  # 400 bytes each


def test_small_weights_are_one_file(tmp_path):
    write_tensors(TENSORS.items(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    _check_read(tmp_path)


def test_large_weights_are_files_up_to_the_size_and_an_index(tmp_path):
    write_tensors(TENSORS.items(), tmp_path, shard_bytes=900)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)] + ["model.safetensors.index.json"]
    assert json.loads((tmp_path / names[-1]).read_text())["metadata"] == {"total_size": 2000}
    _check_read(tmp_path)


def test_a_tensor_larger_than_a_file_has_its_own(tmp_path):
    write_tensors(TENSORS.items(), tmp_path, shard_bytes=1)
    assert len(list(tmp_path.glob("model-*-of-00005.safetensors"))) == 5
    _check_read(tmp_path)


def test_writing_takes_tensors_as_they_come_and_holds_one_files_worth(tmp_path):
    alive = []

    def stream():
        for number in range(8):
            tensor = torch.full((100,), float(number))
            alive.append(tensor.untyped_storage()._weak_ref())
            yield f"tensor{number}", tensor
            del tensor
            held = sum(not torch.UntypedStorage._expired(reference) for reference in alive)
            assert held <= 2

    write_tensors(stream(), tmp_path, shard_bytes=800)
    assert len(TensorFolder(tmp_path)) == 8


def test_views_keep_their_numbers(tmp_path):
    whole = torch.randn(4, 6)
    write_tensors([("rows", whole[1:3]), ("columns", whole[:, ::2]), ("transposed", whole.t())], tmp_path)
    found = TensorFolder(tmp_path)
    assert torch.equal(found["rows"], whole[1:3])
    assert torch.equal(found["columns"], whole[:, ::2])
    assert torch.equal(found["transposed"], whole.t())


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        TensorFolder(tmp_path)
    write_tensors(TENSORS.items(), tmp_path, shard_bytes=900)
    second = tmp_path / "model-00002-of-00003.safetensors"
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors: not a whole safetensors file"):
        TensorFolder(tmp_path)
    second.unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors: missing, but .* names it"):
        TensorFolder(tmp_path)


def _check_read(folder):
    found = TensorFolder(folder)
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
