"""Tensors that are made when they are asked for, and not before."""

from __future__ import annotations

import pytest
import torch

from retrolit.models.lazy_tensors import LazyTensors


def test_a_tensor_is_made_when_it_is_asked_for_and_never_to_tell_whether_it_is_there() -> None:
    made = []

    def make(name: str) -> torch.Tensor:
        made.append(name)
        return torch.tensor(len(name))

    tensors = LazyTensors(["one", "three"], make)
    assert "one" in tensors
    assert "two" not in tensors
    assert (list(tensors), len(tensors)) == (["one", "three"], 2)
    with pytest.raises(KeyError, match="two"):
        tensors["two"]
    assert made == []
    assert tensors["three"] == 5
    assert {name: int(tensor) for name, tensor in tensors.items()} == {"one": 3, "three": 5}
    assert made == ["three", "one", "three"]
