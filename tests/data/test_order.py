import numpy as np
import pytest

from retrolit.data.order import SeededOrder


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_every_number_comes_exactly_once(size):
    order = SeededOrder(size, 7, 3)
    assert sorted(order[i] for i in range(len(order))) == list(range(size))


def test_it_is_a_function_of_the_seeds_alone():
    orders = {seeds: [SeededOrder(500, *seeds)[i] for i in range(500)] for seeds in [(1, 0), (1, 1), (2, 0), (1, 0, 0)]}
    assert orders[1, 0] == [SeededOrder(500, 1, 0)[i] for i in range(500)]
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_it_looks_random():
    """Neighboring positions land far apart, and no position is fixed more often than by chance."""
    size, orders = 1000, [SeededOrder(1000, seed) for seed in range(50)]
    table = np.array([[order[i] for i in range(size)] for order in orders])
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.02
    assert (table == np.arange(size)).sum() < 100  # 50 expected
    # Each number's mean place is that of uniform draws: sd 1000 / sqrt(12 x 50) = 41.
    assert np.abs(table.mean(axis=0) - 499.5).max() < 5 * 41


def test_large_orders_cost_nothing():
    order = SeededOrder(10**12, 1)
    assert len({order[i] for i in range(1000)}) == 1000
    assert all(0 <= order[10**12 - 1 - i] < 10**12 for i in range(10))


def test_positions_outside_are_refused():
    with pytest.raises(IndexError, match="position 5 of an order of 5"):
        SeededOrder(5, 0)[5]
