import math

from retrolit.training.divergence import Divergence


def test_a_loss_that_is_no_number_is_lost_at_once():
    for loss in (math.nan, math.inf):
        assert f"the loss is {loss}" in (Divergence(3.0).verdict(loss) or "")


def test_a_lasting_rise_is_lost_and_a_spike_is_not():
    watch = Divergence(max_rise=1.0, window=5)
    assert all(watch.verdict(loss) is None for loss in [5.0, 4.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    assert watch.verdict(6.0) is None  # one step of five: the mean rises by 0.8
    assert all(watch.verdict(2.0) is None for _ in range(5))
    verdicts = [watch.verdict(6.0) for _ in range(2)]
    assert verdicts[0] is None
    assert verdicts[1] == "the loss has risen from 2.00 to 3.60 (means of 5 steps)"


def test_a_falling_loss_is_never_lost():
    watch = Divergence(max_rise=0.5, window=3)
    assert all(watch.verdict(10 * 0.99**step) is None for step in range(500))
