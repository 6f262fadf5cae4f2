"""The cache makes a mask only where one is needed, keeps rows, and refuses what does not fit."""

from __future__ import annotations

import pytest
import torch

from retrolit.models import GPT, GPTConfig, KVCache

CONFIG = GPTConfig(vocab_size=17, hidden_size=16, num_layers=2, num_attention_heads=4, max_position_embeddings=32)
CPU = torch.device("cpu")


def filled(length: int, left_padding: list[int] | None = None) -> KVCache:
    cache = KVCache(CONFIG, 2, 16, left_padding=None if left_padding is None else torch.tensor(left_padding))
    for layer in cache.layers:
        layer.append(*torch.randn(2, 2, 4, length, 4))
    return cache


def test_plain_prompts_and_single_steps_need_no_mask() -> None:
    assert filled(0).mask(5, CPU) is None
    assert filled(3).mask(1, CPU) is None
    assert filled(3, left_padding=[0, 0]).mask(1, CPU) is None


def test_a_piece_after_the_first_sees_all_before_it_and_its_own_past() -> None:
    mask = filled(2).mask(3, CPU)
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_padding_is_seen_by_none_but_itself() -> None:
    mask = filled(0, left_padding=[0, 2]).mask(3, CPU)
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_positions_start_behind_the_padding() -> None:
    positions = filled(1, left_padding=[0, 2]).positions(3)
    assert positions is not None
    assert positions.tolist() == [[1, 2, 3], [0, 0, 1]]
    assert filled(1).positions(3) is None


def test_kept_rows_go_on_as_if_the_others_had_never_been() -> None:
    model, tokens = GPT(CONFIG).eval(), torch.randint(0, 17, (3, 7))
    together = KVCache(CONFIG, 3, 8, left_padding=torch.tensor([0, 2, 0]))
    alone = KVCache(CONFIG, 2, 8, left_padding=torch.tensor([2, 0]))
    rows = torch.tensor([1, 2])
    with torch.no_grad():
        model(tokens[:, :5], cache=together)
        together.keep(rows)
        model(tokens[rows, :5], cache=alone)
        torch.testing.assert_close(
            model(tokens[rows, 5:], cache=together), model(tokens[rows, 5:], cache=alone), atol=1e-5, rtol=1e-5
        )


def test_more_columns_than_the_cache_holds_are_refused() -> None:
    cache = KVCache(CONFIG, 1, max_length=4)
    model = GPT(CONFIG).eval()
    model(torch.zeros(1, 3, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match=r"at most 4 columns \(max_length\), got 3 filled and 2 more"):
        model(torch.zeros(1, 2, dtype=torch.long), cache=cache)
