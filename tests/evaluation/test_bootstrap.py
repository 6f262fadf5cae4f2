"""Confidence intervals over documents."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.evaluation import bootstrap
from retrolit.evaluation.bootstrap import interval, resampled_sums


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    generator = np.random.default_rng(0)
    values = generator.normal(3.0, 2.0, size=400)
    drawn = resampled_sums(np.stack([values, np.ones(400)], axis=1), 4000, seed=1)
    assert (drawn[:, 1] == 400).all()
    low, high = interval(drawn[:, 0] / drawn[:, 1])
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_it_holds_the_truth_nineteen_times_in_twenty():
    generator, held = np.random.default_rng(0), 0
    for trial in range(200):
        sizes = generator.integers(1, 50, size=60)
        sums = np.stack([generator.normal(1.0, 0.5, size=60) * sizes, sizes], axis=1)
        drawn = resampled_sums(sums, 300, seed=trial)
        low, high = interval(drawn[:, 0] / drawn[:, 1])
        held += low <= 1.0 <= high
    assert 180 <= held <= 198


def test_all_columns_are_drawn_together():
    """A constant difference between two models has no spread, however hard the documents differ."""
    nats = np.random.default_rng(0).exponential(5.0, size=30)
    drawn = resampled_sums(np.stack([nats, nats + 1.0], axis=1), 100, seed=2)
    assert np.ptp(drawn[:, 0]) > 30
    assert (drawn[:, 1] - drawn[:, 0]) == pytest.approx(np.full(100, 30.0))


def test_one_block_or_many_draw_as_many_documents(monkeypatch):
    sums = np.random.default_rng(0).random((7, 2))
    monkeypatch.setattr(bootstrap, "BLOCK_DRAWS", 10)
    assert (resampled_sums(np.ones((7, 1)), 20, seed=3) == 7).all()
    assert (resampled_sums(sums, 20, seed=3) == resampled_sums(sums, 20, seed=3)).all()


def test_no_interval_where_many_drawn_splits_have_nothing():
    assert interval(np.array([np.nan] + [1.0] * 19)) == (1.0, 1.0)
    assert interval(np.array([np.nan] * 2 + [1.0] * 18)) is None
    assert interval(np.array([])) is None
