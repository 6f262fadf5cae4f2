import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from retrolit.data import EvaluationSamples, PretrainingSamples, TrainingWindows
from retrolit.tokens import Blend


@dataclass
class _Stream:
    """A stream whose tokens are their own positions."""

    tokens: np.ndarray


def _stream(length):
    return _Stream(np.arange(length, dtype=np.int32))


def _windows(length=1000, sequence_length=64, chunk_length=16, seed=1):
    return TrainingWindows(_stream(length), sequence_length, chunk_length, seed, name="numbers")


LENGTHS = [65, 66, 79, 80, 81, 127, 128, 129, 130, 191, 192, 193, 1000, 1024, 1025]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_window_is_whole_consecutive_and_starts_at_a_chunk(length):
    windows = _windows(length)
    for number in range(3 * windows.windows_per_epoch):
        window = windows[number]
        assert len(window) == 65
        assert window[0] == windows.start(number)
        assert window[0] % 16 == 0
        assert np.all(np.diff(window) == 1)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_epoch_visits_each_of_its_labels_once_and_the_accounting_says_how_many(length):
    windows = _windows(length)
    counts = windows.accounting()
    assert counts.trained + counts.dropped == counts.stream == length
    for epoch in range(4):
        first = epoch * windows.windows_per_epoch
        labels = Counter(n for i in range(windows.windows_per_epoch) for n in windows[first + i][1:].tolist())
        assert set(labels.values()) == {1}
        assert len(labels) == counts.trained
    # What is dropped is less than two windows, whatever the length.
    assert counts.dropped < 2 * 64


def test_epochs_differ_in_order_and_the_shifts_take_turns():
    windows = _windows(length=930)
    assert windows.num_shifts == 7
    epochs = [
        [windows.start(epoch * windows.windows_per_epoch + i) for i in range(windows.windows_per_epoch)]
        for epoch in range(14)
    ]
    assert len({tuple(starts) for starts in epochs}) == 14
    shifts = [min(starts) // 16 for starts in epochs]
    assert sorted(shifts[:7]) == sorted(shifts[7:]) == list(range(7))


def test_over_the_epochs_every_token_is_trained():
    """All but less than a chunk at the stream's end."""
    windows = _windows(length=1000)
    numbers = range(windows.num_shifts * windows.windows_per_epoch)
    trained = {n for number in numbers for n in windows[number][1:].tolist()}
    assert set(range(1, 1000 - 16 + 1)) <= trained


def test_the_same_seed_gives_the_same_windows_wherever_one_begins():
    windows, again, other = _windows(seed=1), _windows(seed=1), _windows(seed=2)
    order = [windows.start(n) for n in range(100)]
    assert [again.start(n) for n in reversed(range(100))][::-1] == order
    assert [other.start(n) for n in range(100)] != order


def test_a_stream_shorter_than_a_sample_is_refused():
    with pytest.raises(ValueError, match=r"numbers: expected more tokens than one sample's 65, got 64; give it more"):
        _windows(length=64)


def test_a_batch_holds_inputs_and_the_tokens_after_them():
    samples = PretrainingSamples([_windows()], Blend([1.0]))
    batch = samples[[0, 5, 7]]
    assert batch.tokens.shape == batch.labels.shape == batch.loss_mask.shape == (3, 64)
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.labels, batch.tokens + 1)
    assert bool((batch.loss_mask == 1).all())
    assert batch.neighbor_tokens is None
    assert torch.equal(batch.tokens[1], torch.from_numpy(samples.sample(5)[:-1].astype(np.int64)))


def test_a_blend_takes_each_stream_by_its_weight_and_in_its_own_order():
    small, large = _windows(300), TrainingWindows(_Stream(np.arange(10_000, 12_000)), 64, 16, 1, name="large")
    samples = PretrainingSamples([small, large], Blend([1.0, 3.0], seed=5))
    starts = [int(samples.sample(n)[0]) for n in range(400)]
    of_small = [start for start in starts if start < 10_000]
    assert abs(len(of_small) - 100) <= 1
    assert of_small == [small.start(n) for n in range(len(of_small))]


def test_samples_can_go_to_another_process():
    samples = PretrainingSamples([_windows()], Blend([1.0]))
    assert torch.equal(pickle.loads(pickle.dumps(samples))[[3, 4]].tokens, samples[[3, 4]].tokens)


@pytest.mark.parametrize("lengths", [[65], [64], [66], [2], [63, 129], [1, 0, 200], [128, 1, 65]])
def test_evaluation_counts_every_token_but_a_streams_first_once(lengths):
    streams = [_Stream(np.arange(1000 * i, 1000 * i + length)) for i, length in enumerate(lengths)]
    samples = EvaluationSamples(streams, 64)
    labels: list[int] = []
    for number in range(len(samples)):
        batch = samples[[number]]
        assert batch.tokens.shape == (1, 64)
        kept = batch.loss_mask[0].bool()
        assert torch.equal(batch.labels[0][kept], batch.tokens[0][kept] + 1)
        labels += batch.labels[0][kept].tolist()
    assert labels == [token for stream in streams for token in stream.tokens[1:].tolist()]


def test_evaluation_past_the_end_is_masked_whole():
    samples = EvaluationSamples([_stream(100)], 64)
    assert len(samples) == 2
    batch = samples[[1, 2, 3]]
    assert batch.loss_mask.sum(dim=1).tolist() == [100 - 1 - 64, 0, 0]


def test_evaluation_locates_its_windows():
    samples = EvaluationSamples([_stream(100), _stream(0), _stream(65)], 64)
    assert [samples.locate(number) for number in range(len(samples))] == [(0, 0), (0, 64), (2, 0)]
