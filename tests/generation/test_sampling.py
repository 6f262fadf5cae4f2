"""From logits to the next token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from retrolit.generation.sampling import SamplingConfig, keep_top_k, keep_top_p, next_tokens, penalize


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(5, 97) * 3  # (B, V)


def generators(seed: int, count: int = 5) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


@pytest.mark.parametrize("k", [1, 7, 97, 500])
def test_top_k_agrees_with_transformers(logits: Tensor, k: int) -> None:
    warpers = pytest.importorskip("transformers.generation.logits_process")
    expected = warpers.TopKLogitsWarper(k)(None, logits)
    assert torch.equal(keep_top_k(logits, k), expected)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_agrees_with_transformers(logits: Tensor, p: float) -> None:
    warpers = pytest.importorskip("transformers.generation.logits_process")
    expected = warpers.TopPLogitsWarper(p)(None, logits)
    assert torch.equal(keep_top_p(logits, p), expected)
    assert (keep_top_p(logits, p) > float("-inf")).any(-1).all()


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.7])
def test_repetition_penalty_agrees_with_transformers(logits: Tensor, penalty: float) -> None:
    warpers = pytest.importorskip("transformers.generation.logits_process")
    tokens = torch.randint(97, (5, 30))
    seen = torch.zeros(5, 97, dtype=torch.bool).scatter(1, tokens, True)
    expected = warpers.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits)
    torch.testing.assert_close(penalize(logits, seen, penalty), expected)


def test_draws_follow_the_probabilities_transformers_would_draw_from(logits: Tensor) -> None:
    """All steps together, in transformers' order: the drawn shares are its warped distribution."""
    warpers = pytest.importorskip("transformers.generation.logits_process")
    tokens = torch.randint(97, (1, 30))
    row = logits[:1] / 2
    expected = warpers.RepetitionPenaltyLogitsProcessor(1.3)(tokens, row)
    for warper in (warpers.TemperatureLogitsWarper(1.5), warpers.TopKLogitsWarper(20), warpers.TopPLogitsWarper(0.8)):
        expected = warper(tokens, expected)
    expected = expected.softmax(-1)[0]
    seen = torch.zeros(1, 97, dtype=torch.bool).scatter(1, tokens, True)
    sampling = SamplingConfig(temperature=1.5, top_k=20, top_p=0.8, repetition_penalty=1.3)
    count = 4000
    generator = torch.Generator().manual_seed(1)
    drawn = next_tokens(row.expand(count, -1), sampling, [generator] * count, seen.expand(count, -1))
    shares = torch.bincount(drawn, minlength=97) / count
    assert shares[expected == 0].sum() == 0
    assert (shares - expected).abs().max() < 4 * (0.25 / count) ** 0.5


def test_greedy_takes_the_likeliest(logits: Tensor) -> None:
    assert torch.equal(next_tokens(logits, SamplingConfig(temperature=0), []), logits.argmax(-1))


def test_a_low_temperature_is_nearly_greedy(logits: Tensor) -> None:
    drawn = next_tokens(logits, SamplingConfig(temperature=1e-4), generators(0))
    assert torch.equal(drawn, logits.argmax(-1))


def test_a_rows_draw_depends_on_its_own_generator_alone(logits: Tensor) -> None:
    sampling = SamplingConfig(top_p=0.95)
    together = next_tokens(logits, sampling, generators(3))
    alone = [next_tokens(logits[i : i + 1], sampling, generators(3)[i : i + 1]) for i in range(5)]
    assert torch.equal(together, torch.cat(alone))
    others = [next_tokens(logits, sampling, generators(seed)) for seed in range(20, 30)]
    assert any(not torch.equal(together, other) for other in others)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("stop", [".", ""]),
        ("stop", ""),
        ("stop", [3]),
    ],
)
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"SamplingConfig\.{field}: expected .*, got "):
        SamplingConfig(**{field: value})  # pyright: ignore[reportArgumentType]


def test_one_stop_text_is_a_list_of_one() -> None:
    assert SamplingConfig(stop="\n").stop == ["\n"]
