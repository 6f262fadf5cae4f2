"""What retrieval is worth, told from noise."""

from __future__ import annotations

import math

import pytest
import torch

from retrolit.evaluation.loss_totals import alone
from retrolit.evaluation.retrieval_gain import NOISE, PairedDifference, RetrievalTotals


def _losses(samples: int, length: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Token losses (B, T) that have something in common within each sample, and a mask of uneven lengths."""
    losses = 2 + 0.5 * torch.randn(samples, 1) + torch.randn(samples, length)
    return losses, (torch.arange(length) < torch.randint(5, length + 1, (samples, 1))).float()


def test_a_difference_is_the_mean_over_tokens_in_whatever_batches_they_come():
    first, mask = _losses(12)
    second = first + torch.randn_like(first)
    whole, parts = PairedDifference(), PairedDifference()
    whole.add(first, second, mask)
    for rows in (slice(0, 5), slice(5, 6), slice(6, 12)):
        parts.add(first[rows], second[rows], mask[rows])
    assert whole.result(alone) == pytest.approx(parts.result(alone))
    expected = ((first - second) * mask).sum() / mask.sum()
    assert whole.result(alone)[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_standard_error_is_the_spread_of_the_means():
    """Of many splits of the same kind; tokens of a sample vary together, and the error knows."""
    means, errors = [], []
    for _ in range(400):
        first, mask = _losses(40)
        difference = PairedDifference()
        difference.add(first, torch.full_like(first, 2.0), mask)
        mean, error = difference.result(alone)
        means.append(mean)
        errors.append(error)
    spread = float(torch.tensor(means).std())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.1)
    beyond = sum(abs(mean) > NOISE * error for mean, error in zip(means, errors, strict=True))
    assert 5 <= beyond <= 40  # 5 % of 400 are 20


@pytest.mark.parametrize(("cost", "used"), [(0.0, False), (-0.5, False), (0.5, True)])
def test_retrieval_is_used_where_random_neighbors_cost(cost, used):
    totals = RetrievalTotals()
    retrieved, mask = _losses(50)
    noise = 0.1 * torch.randn_like(retrieved)
    totals.add(retrieved, none=retrieved + 0.25, random=retrieved + cost + noise - noise.mean(), mask=mask)
    said: list[str] = []
    result = totals.result(alone, 4.0, said.append)
    assert ["RETRIEVAL IS NOT BEING USED" in line for line in said] == ([] if used else [True])
    assert result["retrieval_gain"] == pytest.approx(0.25 / math.log(2) / 4, rel=1e-4)
    assert result["bits_per_byte_none"] - result["bits_per_byte"] == result["retrieval_gain"]
    assert result["bits_per_byte_random"] - result["bits_per_byte"] == pytest.approx(cost / math.log(2) / 4, abs=0.02)


def test_neighbors_that_change_nothing_at_all_are_not_used():
    totals = RetrievalTotals()
    losses, mask = _losses(3)
    totals.add(losses, losses, losses, mask)
    assert not totals.is_used(alone)
