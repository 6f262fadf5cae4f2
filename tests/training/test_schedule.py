import math

import pytest

from retrolit.training import ScheduleConfig
from retrolit.training.schedule import learning_rate


def _rates(schedule, length=100, peak=1.0):
    return [learning_rate(schedule, peak, consumed, length) for consumed in range(1, length + 21)]


def test_it_rises_in_a_line_falls_to_the_floor_and_stays_there():
    rates = _rates(ScheduleConfig(type="cosine", warmup=10, min_lr=0.1))
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[9:100] == sorted(rates[9:100], reverse=True)
    assert rates[99:] == pytest.approx([0.1] * 21)
    half = 10 + 45
    assert rates[half - 1] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)


def test_linear_falls_in_a_line_and_constant_does_not_fall():
    linear = _rates(ScheduleConfig(type="linear", warmup=20))
    assert linear[59] == pytest.approx(0.5)
    assert linear[99] == 0
    assert set(_rates(ScheduleConfig(type="constant", warmup=20))[20:]) == {1.0}


def test_without_warmup_it_begins_near_the_peak():
    assert _rates(ScheduleConfig(type="linear"))[0] == pytest.approx(0.99)
    assert _rates(ScheduleConfig(type="constant"))[0] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "step"}, "schedule.type: expected cosine, linear or constant; got 'step'"),
        ({"unit": "epochs"}, "schedule.unit: expected steps, samples or tokens; got 'epochs'"),
        ({"warmup": -1}, "schedule: expected warmup and min_lr of at least 0, got -1 and 0.0"),
        ({"warmup": 10, "length": 5}, r"schedule.length: expected at least warmup \(10\), got 5"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**settings)
