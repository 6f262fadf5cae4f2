"""The parts of a step, timed by a clock that their own work moves."""

from __future__ import annotations

import random

import pytest
import torch

from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.training import step_split
from retrolit.training.step_split import StepSplit, exclusive

DECODER = GPTConfig(vocab_size=32, hidden_size=16, num_layers=4, num_attention_heads=2, max_position_embeddings=32)
RETRO = RetroConfig(DECODER, retro_layers=[2, 4], chunk_length=8, encoder_layers=2)


class Clock:
    """Stands still but for `work`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def work(self, module: torch.nn.Module, forward: float, backward: float) -> None:
        """Have a module's passes take so long."""

        def after(module, arguments, output):
            self.seconds += forward
            if output.requires_grad:
                output.register_hook(self.later(backward))

        module.register_forward_hook(after)

    def later(self, seconds: float):
        def pass_by(gradient):
            self.seconds += seconds

        return pass_by


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_split, "time", clock)
    return clock


def retro(**changes) -> Retro:
    torch.manual_seed(2)
    model = Retro(RETRO)
    model.checkpoint_activations = changes.pop("checkpoint_activations", False)
    assert not changes
    return model


def losses(model: Retro) -> torch.Tensor:
    draw = torch.Generator().manual_seed(4)
    tokens, labels = torch.randint(32, (2, 2, 24), generator=draw)
    neighbors = torch.randint(32, (2, 3, 2, 16), generator=draw)
    return model.loss(tokens, labels, None, neighbors).mean


@pytest.mark.parametrize("frozen_decoder", [False, True])
def test_every_part_has_the_time_of_its_work(clock: Clock, frozen_decoder: bool) -> None:
    """Of two micro-batches, forward and backward; nothing is counted before and after."""
    model = retro()
    for name, weight in model.decoder.named_parameters():
        weight.requires_grad = not frozen_decoder or "cross_attention" in name
    for layer in model.encoder.layers:
        clock.work(layer.mlp, 1, 3)
    for layer in model.retro_layers.values():
        clock.work(layer.cross_attention.key_value, 10, 20)  # pyright: ignore
        clock.work(layer.cross_attention.query, 100, 200)  # pyright: ignore
        clock.work(layer.mlp, 1000, 2000)
    clock.work(model.decoder.layers[0].mlp, 1000, 2000)
    split = StepSplit(model)
    losses(model).backward()
    split.start()
    for _ in range(2):
        losses(model).backward()
        split.end_backward()
        clock.seconds += 5000
    split.begin_optimizer()
    clock.seconds += 7
    parts = split.stop()
    clock.seconds += 1
    losses(model).backward()
    assert parts == {"encoder": 2 * 2 * (1 + 3), "cross_attention": 2 * 2 * (110 + 220), "optimizer": 7}
    split.start()
    assert split.stop() == {}


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_timing_changes_no_bit(checkpoint_activations: bool) -> None:
    gradients = []
    for timed in (False, True):
        model = retro(checkpoint_activations=checkpoint_activations)
        split = StepSplit(model)
        if timed:
            split.start()
        loss = losses(model)
        loss.backward()
        parts = split.stop() if timed else {}
        assert set(parts) == ({"encoder", "cross_attention"} if timed else set())
        assert all(seconds > 0 for seconds in parts.values())
        gradients.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_removed_it_leaves_the_model_as_it_was() -> None:
    model = retro()
    before = model.project, model.read_chunks
    split = StepSplit(model)
    assert (model.project, model.read_chunks) != before
    split.remove()
    assert (model.project, model.read_chunks) == before
    split.start()
    losses(model).backward()
    assert split.stop() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_its_own_clock_is_read() -> None:
    model = retro().cuda()
    split = StepSplit(model)
    split.start()
    with torch.device("cuda"):
        tokens = torch.randint(32, (2, 24))
        model.loss(tokens, tokens, None, torch.randint(32, (2, 3, 2, 16))).mean.backward()
    parts = split.stop()
    assert 0 < parts["cross_attention"] < 60
    assert 0 < parts["encoder"] < 60


def test_what_lies_in_a_span_is_not_its_own() -> None:
    """Against counting, moment by moment, the span begun last; spans that lie in each other or apart."""
    draw = random.Random(1)
    for _ in range(50):
        spans: list[tuple[str, float, float]] = []

        def divide(begin: int, end: int, depth: int, spans=spans) -> None:
            while end - begin > 1 and draw.random() < 0.8:
                first = draw.randint(begin, end - 1)
                last = draw.randint(first, end)
                spans.append((draw.choice("abc"), first, last))
                if depth:
                    divide(first, last, depth - 1)
                begin = last

        divide(0, 40, 2)
        expected = dict.fromkeys((part for part, _, _ in spans), 0.0)
        for moment in range(40):
            running = [part for part, begin, end in spans if begin <= moment < end]
            if running:
                expected[running[-1]] += 1
        assert exclusive(spans) == expected
