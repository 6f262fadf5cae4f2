"""Rotary positions: against a loop over pairs of channels, the law of relative positions, and stretched frequencies."""

from __future__ import annotations

import math

import pytest
import torch

from retrolit.models import GPTConfig, RopeScaling
from retrolit.models.rotary import RotaryTables, rotary_frequencies, rotate, rotate_parts

CPU = torch.device("cpu")


def config(
    head_dim: int = 8, rotary_percent: float = 1.0, base: float = 10000.0, scaling: RopeScaling | None = None
) -> GPTConfig:
    return GPTConfig(
        vocab_size=8, hidden_size=head_dim, num_layers=1, num_attention_heads=1, max_position_embeddings=16,
        rotary_percent=rotary_percent, rotary_base=base, rope_scaling=scaling,
    )  # fmt: skip


@pytest.mark.parametrize("rotary_percent", [1.0, 0.5, 0.25])
def test_each_pair_of_channels_turns_by_position_times_frequency(rotary_percent: float) -> None:
    head_dim, length = 8, 5
    x = torch.randn(2, 3, length, head_dim, dtype=torch.float64)
    rotated = rotate(x, RotaryTables(config(head_dim, rotary_percent)).span(0, length, CPU))
    rotary_dim = int(head_dim * rotary_percent)
    expected = x.clone()
    for position in range(length):
        for pair in range(rotary_dim // 2):
            first, second = pair, pair + rotary_dim // 2
            angle = position * 10000.0 ** (-2 * pair / rotary_dim)
            cos, sin = math.cos(angle), math.sin(angle)
            expected[..., position, first] = x[..., position, first] * cos - x[..., position, second] * sin
            expected[..., position, second] = x[..., position, second] * cos + x[..., position, first] * sin
    torch.testing.assert_close(rotated, expected, atol=1e-6, rtol=1e-6)


def test_scores_depend_on_the_distance_alone() -> None:
    tables = RotaryTables(config(head_dim=16))
    query, key = torch.randn(2, 1, 1, 1, 16)

    def score(query_position: int, key_position: int) -> float:
        turned = rotate(query, tables.span(query_position, query_position + 1, CPU))
        return (turned * rotate(key, tables.span(key_position, key_position + 1, CPU))).sum().item()

    assert score(7, 3) == pytest.approx(score(1004, 1000), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(3, 7), abs=1e-4)


def test_positions_of_a_batch_pick_from_the_same_tables() -> None:
    tables = RotaryTables(config())
    cos, sin = tables.at(torch.tensor([[0, 1], [3, 4]]), end=5)
    assert cos.shape == (2, 1, 2, 8)
    assert sin.shape == (2, 1, 2, 4)
    torch.testing.assert_close((cos[1, 0], sin[1, 0]), tables.span(3, 5, CPU))


def test_tables_grow_beyond_the_length_meant_and_stay_the_same() -> None:
    tables = RotaryTables(config())
    short = tables.span(0, 4, CPU)
    cos, sin = tables.span(0, 1000, CPU)
    torch.testing.assert_close((cos[:4], sin[:4]), short, atol=0, rtol=0)
    torch.testing.assert_close(cos[999, 0].item(), math.cos(999), atol=1e-6, rtol=0)


def test_a_head_keeps_its_dtype_and_is_turned_in_float32() -> None:
    tables = RotaryTables(config())
    x = torch.randn(1, 1, 12, 8, dtype=torch.bfloat16)
    rotated = rotate(x, tables.span(0, 12, CPU))
    assert rotated.dtype == torch.bfloat16
    torch.testing.assert_close(rotated, rotate(x.float(), tables.span(0, 12, CPU)).bfloat16(), atol=0, rtol=0)


def test_linear_scaling_divides_every_frequency() -> None:
    stretched = rotary_frequencies(config(scaling=RopeScaling("linear", factor=4.0)))
    torch.testing.assert_close(stretched, rotary_frequencies(config()) / 4)


def test_llama3_scaling_keeps_fast_channels_divides_slow_ones_and_blends_between() -> None:
    scaling = RopeScaling(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    )
    plain = rotary_frequencies(config(head_dim=32, scaling=None)).tolist()
    stretched = rotary_frequencies(config(head_dim=32, scaling=scaling)).tolist()
    kinds = set()
    for frequency, new in zip(plain, stretched, strict=True):
        wavelength = 2 * math.pi / frequency
        if wavelength < 64 / 4:
            kinds.add("kept")
            assert new == pytest.approx(frequency)
        elif wavelength > 64 / 1:
            kinds.add("divided")
            assert new == pytest.approx(frequency / 8)
        else:
            kinds.add("blended")
            share = (64 / wavelength - 1) / (4 - 1)
            assert new == pytest.approx((1 - share) * frequency / 8 + share * frequency)
    assert kinds == {"kept", "blended", "divided"}


def test_tables_are_no_part_of_the_state_and_survive_a_cast() -> None:
    from retrolit.models import GPT

    model = GPT(config()).to(torch.bfloat16)
    assert not any("rotary" in name for name in model.state_dict())
    assert model.rotary is not None
    cos, _ = model.rotary.span(0, 4, CPU)
    assert cos.dtype == torch.float32


@pytest.mark.parametrize("rotary_percent", [1.0, 0.5])
def test_parts_of_a_joint_projection_are_rotated_as_each_alone_and_so_are_their_gradients(
    rotary_percent: float,
) -> None:
    rotation = RotaryTables(config(head_dim=8, rotary_percent=rotary_percent)).span(3, 8, CPU)
    joint = torch.randn(2, 5, 3, 4, 8, dtype=torch.float64, requires_grad=True)  # 3 groups of 2 queries, key, value
    query, key, value = (part.flatten(2, 3).transpose(1, 2) for part in joint.split([2, 1, 1], dim=3))
    expected = (rotate(query, rotation), rotate(key, rotation), value)
    found = rotate_parts(joint, [2, 1, 1], 2, rotation)
    weights = [torch.randn_like(part) for part in expected]
    gradients = []
    for parts in (expected, found):
        loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        assert isinstance(loss, torch.Tensor)
        gradients += torch.autograd.grad(loss, joint)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)
    assert found[2].untyped_storage().data_ptr() != joint.untyped_storage().data_ptr()  # or the joint would be kept


def test_the_gradient_of_a_rotation_is_the_rotation_back() -> None:
    rotation = RotaryTables(config(head_dim=8, rotary_percent=0.5)).span(0, 3, CPU)
    x = torch.randn(2, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x)
