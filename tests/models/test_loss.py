"""The chunked cross-entropy is the plain one: values, gradients, precisions; and it never holds all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrolit.models import chunked_cross_entropy, loss

ROWS, WIDTH, VOCABULARY = 23, 7, 31


@pytest.fixture(params=[1, 5, 23, 64], ids=lambda rows: f"{rows} rows a chunk")
def rows_per_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(loss, "rows_per_chunk", lambda vocab_size, compiled: request.param)
    return request.param


def problem(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden = (torch.randn(ROWS, WIDTH, dtype=dtype) * scale).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(0, VOCABULARY, (ROWS,)), torch.rand(ROWS, dtype=dtype)


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    losses = F.cross_entropy(hidden @ weight.T, labels, reduction="none")
    return (losses * weights).sum(), losses.detach()


SOFTMAXES = pytest.mark.parametrize("softmax", [None, loss.softmax_over_logits], ids=["in place", "to be compiled"])


@SOFTMAXES
@pytest.mark.usefixtures("rows_per_chunk")
@pytest.mark.parametrize("scale", [1.0, 1e3], ids=["usual logits", "huge logits"])
def test_values_and_gradients_are_those_of_the_plain_loss(scale: float, softmax: loss.Softmax | None) -> None:
    inputs = problem(scale=scale)
    total, losses = chunked_cross_entropy(*inputs, softmax)
    expected_total, expected_losses = plain(*inputs)
    torch.testing.assert_close((total, losses), (expected_total, expected_losses))
    # A factor behind the loss (accumulation, loss scaling) reaches both gradients.
    gradients = torch.autograd.grad(total * 3, inputs[:2])
    torch.testing.assert_close(gradients, torch.autograd.grad(expected_total * 3, inputs[:2]))


@pytest.mark.usefixtures("rows_per_chunk")
def test_gradients_are_made_only_where_they_are_wanted() -> None:
    hidden, weight, labels, weights = problem()
    expected = torch.autograd.grad(plain(hidden, weight, labels, weights)[0], (hidden, weight))
    only_hidden, _ = chunked_cross_entropy(hidden, weight.detach(), labels, weights)
    torch.testing.assert_close(torch.autograd.grad(only_hidden, hidden), expected[:1])
    only_weight, _ = chunked_cross_entropy(hidden.detach(), weight, labels, weights)
    torch.testing.assert_close(torch.autograd.grad(only_weight, weight), expected[1:])
    with torch.no_grad():
        assert not chunked_cross_entropy(hidden, weight, labels, weights)[0].requires_grad
        _, losses = chunked_cross_entropy(hidden, weight, labels, weights, loss.softmax_over_logits)
    torch.testing.assert_close(losses, plain(hidden, weight, labels, weights)[1])


@SOFTMAXES
@pytest.mark.usefixtures("rows_per_chunk")
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_as_its_matmuls_allow(autocast: bool, softmax: loss.Softmax | None) -> None:
    inputs = problem(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total, losses = chunked_cross_entropy(*inputs, softmax)
    assert losses.dtype == torch.float32
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs[:2]]
    expected, expected_losses = plain(exact[0], exact[1], *inputs[2:])
    torch.testing.assert_close(losses.double(), expected_losses, atol=0.05, rtol=0.01)
    gradients = torch.autograd.grad(total, inputs[:2])
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in inputs[:2]]
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        assert (gradient.double() - wanted).norm() < 0.02 * wanted.norm()


def test_all_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "rows_per_chunk", lambda vocab_size, compiled: 4)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max(largest, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), 0)
            return result

    inputs = problem()
    with Watch():
        chunked_cross_entropy(*inputs)[0].backward()
    assert largest == max(VOCABULARY * WIDTH, 4 * VOCABULARY)
    with Watch():
        plain(*inputs)[0].backward()
    assert largest == ROWS * VOCABULARY


def test_a_second_backward_pass_is_refused() -> None:
    total, _ = chunked_cross_entropy(*problem())
    total.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="used up by an earlier backward pass"):
        total.backward()
