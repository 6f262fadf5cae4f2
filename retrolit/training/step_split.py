"""How the time of an optimizer step divides into the parts of a Retro: encoder, cross-attention, decoder, optimizer.

Backward passes are timed too. A mark is an identity: one on what a part puts out runs when the part's backward pass
begins, one on what it was given when that has ended, because autograd goes back in the order in which the forward pass
came. Nothing is timed, and there is no mark, but in the few steps that are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retrolit.models import Retro

Moment = float | torch.cuda.Event


@dataclass
class Span:
    """A stretch of work on a part; what has no end yet ends with the step."""

    part: str
    begin: Moment | None = None
    end: Moment | None = None


class StepSplit:
    """Times the parts of a Retro while it is trained.

        split = StepSplit(retro)
        split.start()
        ... forward and backward passes; split.end_backward() after each ...
        split.begin_optimizer()
        ... the optimizer's step ...
        seconds = split.stop()          # {"encoder": 0.11, "cross_attention": 0.04, "optimizer": 0.02}
        split.remove()

    What activation checkpointing computes again counts as the part whose backward pass asked for it.
    """

    def __init__(self, retro: Retro, device: torch.device | None = None) -> None:
        """On this device, or where the weights lie: with CPU offload these are two places."""
        self.retro = retro
        self.device = retro.decoder.embedding.weight.device if device is None else device
        self.active = False
        self.spans: list[Span] = []
        self._steps = retro.project, retro.read_chunks
        self._backward = Span("cross_attention")
        self._encoder_forward = self._encoder_backward = Span("encoder")
        retro.project, retro.read_chunks = self._project, self._read_chunks  # pyright: ignore[reportAttributeAccessIssue]
        self._hooks = [
            retro.encoder.register_forward_pre_hook(self._before_encoder),
            retro.encoder.register_forward_hook(self._after_encoder),
        ]

    def remove(self) -> None:
        """Leave the model as it was."""
        self.retro.project, self.retro.read_chunks = self._steps
        for hook in self._hooks:
            hook.remove()

    def start(self) -> None:
        """Time everything from now on."""
        self.active, self.spans = True, []
        self._zero = self.now()

    def end_backward(self) -> None:
        """End what still has no end: a part whose inputs are not trained is the last of the backward pass."""
        for span in self.spans:
            span.end = span.end or self.now()

    def begin_optimizer(self) -> None:
        """The gradients are there."""
        self.spans.append(Span("optimizer", self.now()))

    def stop(self) -> dict[str, float]:
        """Seconds of each part since `start`."""
        self.end_backward()
        self.active = False
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spans = [
            (span.part, self.seconds(span.begin), self.seconds(span.end))
            for span in self.spans
            if span.begin is not None and span.end is not None  # a part without a backward pass has no second span
        ]
        return exclusive(spans)

    def now(self) -> Moment:
        """This moment, of the GPU where the model is on one."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, moment: Moment) -> float:
        """From `start` to this moment."""
        if isinstance(moment, torch.cuda.Event):
            assert isinstance(self._zero, torch.cuda.Event)
            return self._zero.elapsed_time(moment) / 1000
        assert isinstance(self._zero, float)
        return moment - self._zero

    # ---- what is put in the place of the Retro's steps

    def _before_encoder(self, encoder: torch.nn.Module, arguments: tuple) -> tuple | None:
        if not self.active:
            return None
        self._encoder_forward, self._encoder_backward = self._span("encoder"), Span("encoder")
        return tuple(self._closing(argument, self._encoder_backward) for argument in arguments)

    def _after_encoder(self, encoder: torch.nn.Module, arguments: tuple, encoded: Tensor) -> Tensor | None:
        if not self.active:
            return None
        self._encoder_forward.end = self.now()
        return self._opening(encoded, self._encoder_backward)

    def _project(self, attention: Any, encoded: Tensor, *others: Any) -> Any:
        if not self.active:
            return self._steps[0](attention, encoded, *others)
        forward, self._backward = self._span("cross_attention"), Span("cross_attention")
        projected = self._steps[0](attention, self._closing(encoded, self._backward), *others)
        forward.end = self.now()
        return projected

    def _read_chunks(self, *arguments: Any, **options: Any) -> Tensor:
        if not self.active:
            return self._steps[1](*arguments, **options)
        forward = self._span("cross_attention")
        found = self._steps[1](*arguments, **options)
        forward.end = self.now()
        return self._opening(found, self._backward)

    def _span(self, part: str) -> Span:
        self.spans.append(Span(part, self.now()))
        return self.spans[-1]

    def _opening(self, output: Tensor, span: Span) -> Tensor:
        def open_span() -> None:
            span.begin = self.now()
            self.spans.append(span)

        return _Mark.apply(output, open_span) if output.requires_grad else output  # pyright: ignore[reportReturnType]

    def _closing(self, given: Any, span: Span) -> Any:
        def close_span() -> None:
            span.end = self.now()

        return _Mark.apply(given, close_span) if isinstance(given, Tensor) and given.requires_grad else given


class _Mark(torch.autograd.Function):
    """Gives back what it is given, and calls `reached` when the backward pass comes by."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, reached: Callable[[], None]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.reached = reached
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.reached()
        return grad_outputs[0], None


def exclusive(spans: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Of spans (part, begin, end), which may lie in each other, the time of each part without what lies in it."""
    moments = sorted(
        [(begin, 0, number) for number, (_, begin, _) in enumerate(spans)]
        + [(end, 1, number) for number, (_, _, end) in enumerate(spans)]
    )
    totals = dict.fromkeys((part for part, _, _ in spans), 0.0)
    running: list[int] = []
    for (moment, ends, number), (following, _, _) in pairwise(moments):
        if ends:
            running.remove(number)
        else:
            running.append(number)
        if running:
            totals[spans[running[-1]][0]] += following - moment
    return totals
