"""Cross-entropy over a large vocabulary without its logits: exact, in chunks of rows.

N rows (tokens), V vocabulary, D width. The (N, V) logits are the largest tensor of a language model by far. Here a few
rows at a time are projected, and while their logits exist both their loss and their gradients are made: nothing of size
(N, V) is ever held or recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass
class Loss:
    """What a model makes of a batch's labels."""

    mean: Tensor
    """Scalar: mean cross-entropy (nats) of the tokens the loss mask keeps; carries the gradient."""

    tokens: Tensor
    """(B, T) float32: every token's cross-entropy, masked or not; detached."""


Softmax = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""`softmax_over_logits`, or what torch.compile made of it."""


CrossEntropy = Callable[[Tensor, Tensor, Tensor, Tensor, Softmax | None], tuple[Tensor, Tensor]]
"""`chunked_cross_entropy`, or what stands in for it where devices share the vocabulary."""


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, softmax: Softmax | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of the logits hidden @ weight.T.

    Takes hidden (N, D), weight (V, D), labels (N,) int64 all within the vocabulary, weights (N,) float; gives the
    scalar sum of weights x losses, and the losses (N,), detached. Matmuls run in autocast's dtype or else the inputs';
    softmax, losses and the sum over chunks in at least float32. One backward pass: the gradients are used up by it.
    A compiled `softmax` passes over the logits twice, where the steps taken without one do so ten times.
    """
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    return _ChunkedCrossEntropy.apply(hidden, weight, labels, weights, softmax)  # pyright: ignore[reportReturnType]


def masked_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, loss_mask: Tensor | None = None, softmax: Softmax | None = None,
    cross_entropy: CrossEntropy = chunked_cross_entropy,
) -> Loss:  # fmt: skip
    """The `Loss` of hidden states (B, T, D) and output weight (V, D) for labels (B, T); see `GPT.loss` for the mask."""
    if loss_mask is None:
        weights = torch.full(labels.shape, 1 / labels.numel(), device=labels.device)
    else:
        weights = loss_mask.float() / loss_mask.sum().clamp(min=torch.finfo(torch.float32).tiny)
    mean, losses = cross_entropy(hidden.flatten(0, 1), weight, labels.flatten(), weights.flatten(), softmax)
    return Loss(mean=mean, tokens=losses.view_as(labels).float())


def softmax_over_logits(logits: Tensor, labels: Tensor, weights: Tensor, differentiate: bool) -> Tensor:
    """Losses (rows,) of logits (rows, V) for labels and weights (rows,), in at least float32; to be compiled.

    If asked to differentiate, it writes the gradients of weights x losses over the logits.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = exact.logsumexp(-1, keepdim=True)
    losses = (total - exact.gather(-1, labels[:, None])).squeeze(-1)
    if differentiate:
        hot = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
        logits.copy_(((exact - total).exp() - hot.to(exact.dtype)) * weights[:, None])
    return losses


def _softmax_in_place(logits: Tensor, labels: Tensor, weights: Tensor, differentiate: bool) -> Tensor:
    """What `softmax_over_logits` does, of logits in float32 or wider and in their memory alone."""
    picked = labels[:, None]
    logits.sub_(logits.amax(-1, keepdim=True))
    logit = logits.gather(-1, picked)
    total = logits.exp_().sum(-1, keepdim=True)
    if differentiate:
        # d loss / d logits = weight x (softmax - one-hot of the label), written over the exponentials.
        scale = weights[:, None]
        logits.mul_(scale / total).scatter_add_(-1, picked, -scale)
    return (total.log() - logit).squeeze(-1)


def rows_per_chunk(vocab_size: int, compiled: bool) -> int:
    """Rows whose logits exist at a time: enough to keep the matmuls efficient, more where the vocabulary is small.

    A compiled softmax is for GPUs, which need more: every chunk reads and writes the gradient of the output weight.
    """
    return 4096 if compiled else max(512, 2**22 // vocab_size)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, softmax: Softmax | None
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        exact = torch.promote_types(dtype, torch.float32)
        matrix = weight.to(dtype)  # (V, D)
        losses = torch.empty(labels.shape, dtype=exact, device=hidden.device)  # (N,)
        weights = weights.to(exact)
        hidden_wanted, weight_wanted = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if hidden_wanted else None  # (N, D)
        grad_weight = torch.zeros_like(weight, dtype=exact) if weight_wanted else None  # (V, D)
        rows = rows_per_chunk(weight.shape[0], softmax is not None)
        # One buffer for every chunk's logits, gradients included: the steps below write over it.
        buffer_dtype = exact if softmax is None else dtype
        buffer = torch.empty(min(rows, labels.shape[0]), weight.shape[0], dtype=buffer_dtype, device=hidden.device)
        for start in range(0, labels.shape[0], rows):
            chunk = slice(start, start + rows)
            inputs, picked, scale = hidden[chunk].to(dtype), labels[chunk], weights[chunk]
            logits = buffer[: inputs.shape[0]]  # (rows, V)
            if dtype == buffer_dtype:
                torch.mm(inputs, matrix.T, out=logits)
            else:
                logits.copy_(inputs @ matrix.T)
            losses[chunk] = (softmax or _softmax_in_place)(logits, picked, scale, hidden_wanted or weight_wanted)
            if not (hidden_wanted or weight_wanted):
                continue
            grad_logits = logits.to(dtype)
            if grad_hidden is not None:
                grad_hidden[chunk] = grad_logits @ matrix
            if grad_weight is not None and dtype == exact:
                grad_weight.addmm_(grad_logits.T, inputs)
            elif grad_weight is not None:
                grad_weight += grad_logits.T @ inputs
        ctx.gradients = (grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(losses)
        return (weights * losses).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        assert ctx.gradients is not None, (
            "chunked_cross_entropy: its gradients were used up by an earlier backward pass"
        )
        # Scaled in place, so that no second (V, D) is made: the gradients leave with the first backward.
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        grad_total = grad_outputs[0]
        if grad_hidden is not None:
            grad_hidden.mul_(grad_total)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad_total).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None
