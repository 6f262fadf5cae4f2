"""Practice in reading: passages of a sample's own text in the place of neighbors, where and when they are due."""

from __future__ import annotations

import pytest
import torch

from retrolit.data import Batch, PracticeConfig
from retrolit.data.practice import Practice

M, K, R, T = 8, 2, 16, 48
L = T // M


def _batch(rows: int) -> Batch:
    """Samples that count on from 1000 times their row, and neighbors that are -1 all over."""
    text = 1000 * torch.arange(rows)[:, None] + torch.arange(T + 1)
    neighbors = torch.full((rows, L, K, R), -1)
    mask = torch.ones(neighbors.shape, dtype=torch.bool)
    return Batch(text[:, :-1].clone(), text[:, 1:].clone(), torch.ones(rows, T), neighbors, mask)


def _read(share: float, numbers: list[int], num_samples: int = 1000, seed: int = 3) -> Batch:
    return Practice(share, num_samples, seed).add_to(_batch(len(numbers)), numbers, M)


def test_a_passage_is_text_from_inside_the_chunk_on_and_ends_with_the_sample() -> None:
    batch = _read(1.0, list(range(40)))
    assert batch.neighbor_tokens is not None
    assert batch.neighbor_mask is not None
    begins, slots = set(), set()
    for row in range(40):
        for chunk in range(L):
            practiced = [k for k in range(K) if batch.neighbor_tokens[row, chunk, k, 0] >= 0]
            assert len(practiced) == 1  # the other neighbor stays
            passage, there = (part[row, chunk, practiced[0]] for part in (batch.neighbor_tokens, batch.neighbor_mask))
            first, end = int(passage[0]) - 1000 * row, (chunk + 1) * M
            assert end - M <= first < end
            length = min(R, T + 1 - first)
            assert passage[:length].tolist() == list(range(1000 * row + first, 1000 * row + first + length))
            assert there.tolist() == [True] * length + [False] * (R - length)
            assert not passage[length:].any()
            begins.add(end - first)
            slots.add(practiced[0])
    assert begins == set(range(1, M + 1))
    assert slots == set(range(K))


def test_a_share_of_the_chunks_practices_and_only_at_the_beginning() -> None:
    batch = _read(0.25, list(range(400)), num_samples=200)
    assert batch.neighbor_tokens is not None
    practiced = (batch.neighbor_tokens[..., 0] >= 0).any(-1).float()  # (B, L)
    assert abs(practiced[:200].mean() - 0.25) < 0.05
    assert practiced[200:].sum() == 0


def test_what_a_sample_practices_follows_from_its_number_and_the_seed() -> None:
    together, other = _read(0.5, [0, 7, 3]), _read(0.5, [0, 7, 3], seed=4)
    alone = _read(0.5, [7])
    assert together.neighbor_tokens is not None
    assert alone.neighbor_tokens is not None
    assert other.neighbor_tokens is not None
    known, expected = alone.neighbor_tokens[0], together.neighbor_tokens[1]
    assert torch.equal(torch.where(known > 0, known + 1000, known), expected)
    assert not torch.equal(other.neighbor_tokens, together.neighbor_tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "practice.steps: expected at least 1, got 0; leave practice out for none"),
        ({"steps": 5, "share": 0.0}, "practice.share: expected a share above 0 and up to 1, got 0.0"),
        ({"steps": 5, "share": 1.5}, "practice.share: expected a share above 0 and up to 1, got 1.5"),
    ],
)
def test_impossible_practice_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PracticeConfig(**settings)
