import pickle
import time

import pytest
import torch
from torch.utils.data import Dataset

from retrolit.data import Batch, Loader, evaluation_numbers, training_numbers


def _numbers(first=0, last=3, rank=0, world_size=1, micro=2):
    return [
        list(numbers)
        for numbers in training_numbers(
            first, last, global_batch_size=8, micro_batch_size=micro, rank=rank, world_size=world_size
        )
    ]


def test_a_run_reads_every_sample_once_and_in_order():
    assert [n for numbers in _numbers() for n in numbers] == list(range(24))


def test_the_devices_of_a_step_share_its_samples():
    """The example of the module's docstring."""
    assert _numbers(first=5, last=6, rank=0, world_size=2) == [[40, 41], [44, 45]]
    assert _numbers(first=5, last=6, rank=1, world_size=2) == [[42, 43], [46, 47]]


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_a_step_holds_the_same_samples_however_it_is_divided(micro):
    for world_size in (1, 2, 4, 8):
        if 8 % (micro * world_size):
            continue
        steps = [set(), set(), set()]
        for rank in range(world_size):
            batches = _numbers(rank=rank, world_size=world_size, micro=micro)
            accumulation = len(batches) // 3
            for i, numbers in enumerate(batches):
                steps[i // accumulation].update(numbers)
        assert steps == [set(range(8)), set(range(8, 16)), set(range(16, 24))]


def test_going_on_is_skipping():
    assert _numbers(first=2, last=5) == _numbers(first=0, last=5)[8:]


def test_evaluation_covers_all_windows_with_equally_many_batches_everywhere():
    parts = [list(evaluation_numbers(11, micro_batch_size=2, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    covered = sorted(n for part in parts for numbers in part for n in numbers)
    assert covered == list(range(12))


class _Numbers(Dataset):
    """Batches that hold their own numbers, some slowly."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __getitem__(self, numbers):
        time.sleep(self.seconds)
        tokens = torch.tensor(numbers)[:, None]
        return Batch(tokens, tokens, torch.ones(tokens.shape))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_with_and_without_workers(num_workers):
    loader = Loader(_Numbers(), lambda: [range(i, i + 3) for i in range(0, 30, 3)], 10, num_workers)
    assert len(loader) == 10
    assert [n for batch in loader for n in batch.tokens.flatten().tolist()] == list(range(30))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_global_random_state_alone(num_workers):
    before = torch.get_rng_state()
    list(Loader(_Numbers(), lambda: [range(3)], 1, num_workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_waiting_is_counted_and_computing_is_not():
    loader = Loader(_Numbers(seconds=0.02), lambda: [range(1)] * 5, 5)
    for _ in loader:
        time.sleep(0.05)
    assert 0.1 <= loader.wait_seconds < 0.25


def test_the_numbers_are_looked_up_when_reading_begins():
    start = [0]
    loader = Loader(_Numbers(), lambda: [range(start[0], start[0] + 2)], 1)
    start[0] = 40
    assert next(iter(loader)).tokens.flatten().tolist() == [40, 41]


def test_samples_can_go_to_another_process():
    assert pickle.loads(pickle.dumps(_Numbers())).seconds == 0.0
