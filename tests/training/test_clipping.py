import pytest
import torch
from torch import nn

from retrolit.training.clipping import clip_gradients


def _weights(dtype=torch.float32):
    weights = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 4), (5,), (2, 2))]
    for weight in weights[:2]:  # the last has no gradient
        weight.grad = torch.randn(weight.shape).to(dtype)
    return weights


def test_it_is_torchs_clipping_and_gives_the_norm_from_before():
    ours, theirs = _weights(), _weights()
    for one, other in zip(ours, theirs, strict=True):
        other.grad = None if one.grad is None else one.grad.clone()
    norm = clip_gradients(ours, 0.5)
    assert norm == nn.utils.clip_grad_norm_(theirs, 0.5)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(one.grad, other.grad)
    assert clip_gradients(ours, None) == pytest.approx(0.5, abs=1e-5)


def test_small_gradients_and_no_limit_change_nothing():
    weights = _weights()
    before = [weight.grad.clone() for weight in weights[:2]]
    norm = clip_gradients(weights, 100.0)
    assert clip_gradients(weights, None) == norm
    assert all(torch.equal(weight.grad, old) for weight, old in zip(weights, before, strict=False))


def test_a_generator_of_parameters_is_enough():
    assert clip_gradients((weight for weight in _weights()), 1e-3) > 1
