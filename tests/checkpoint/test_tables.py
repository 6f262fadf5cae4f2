"""The laws of a conversion table: both directions are inverses, and nothing is passed over."""

from __future__ import annotations

import pytest
import torch

from retrolit.checkpoint.families import FAMILIES
from retrolit.checkpoint.megatron import rules
from retrolit.checkpoint.model_types import tensor_shapes
from retrolit.checkpoint.tables import (
    GATE_THEN_UP,
    SEPARATE_QKV,
    TRANSPOSED,
    TRANSPOSED_QKV,
    Rule,
    fill_in,
    refuse_other_names,
    to_ours,
    to_theirs,
)
from retrolit.models import GPTConfig

CONFIG = GPTConfig(
    vocab_size=7, hidden_size=12, num_layers=2, num_attention_heads=6, max_position_embeddings=8, num_query_groups=2
)
ROWS = CONFIG.hidden_size + 2 * CONFIG.num_query_groups * CONFIG.head_dim


@pytest.mark.parametrize(
    ("layout", "ours"),
    [(SEPARATE_QKV, [(ROWS, 12)]), (SEPARATE_QKV, [(ROWS,)]), (TRANSPOSED, [(5, 3)]), (TRANSPOSED, [(5,)]),
     (GATE_THEN_UP, [(4, 3), (4, 3)]), (GATE_THEN_UP, [(4,), (4,)])],
)  # fmt: skip
def test_a_layout_there_and_back_changes_nothing(layout, ours):
    tensors = [torch.randn(shape) for shape in ours]
    back = layout.to_ours(CONFIG, layout.to_theirs(CONFIG, tensors))
    assert all(torch.equal(one, other) for one, other in zip(back, tensors, strict=True))


def test_gpt2s_fused_layout_there_and_back_changes_nothing():
    config = GPTConfig(vocab_size=7, hidden_size=12, num_layers=1, num_attention_heads=6, max_position_embeddings=8)
    for tensor in (torch.randn(36, 12), torch.randn(36)):
        theirs = TRANSPOSED_QKV.to_theirs(config, [tensor])
        assert theirs[0].shape == tensor.t().shape
        assert torch.equal(TRANSPOSED_QKV.to_ours(config, theirs)[0], tensor)


def test_separate_query_key_value_are_joined_group_by_group():
    heads = torch.arange(6).repeat_interleave(2).float()  # the rows of query head h hold h
    keys, values = torch.tensor([10.0, 10, 11, 11]), torch.tensor([20.0, 20, 21, 21])
    joined = SEPARATE_QKV.to_ours(CONFIG, [heads, keys, values])[0]
    assert joined.tolist() == [0, 0, 1, 1, 2, 2, 10, 10, 20, 20, 3, 3, 4, 4, 5, 5, 11, 11, 21, 21]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_every_familys_table_is_a_bijection(family, make_gpt):
    fields = {
        "gpt2": {"position_embedding": "learned"},
        "gpt_neox": {},
        "nemotron": {"normalization": "layernorm1p", "activation": "squared_relu", "bias": False},
        "qwen2": {"normalization": "rmsnorm", "activation": "swiglu", "bias": False, "qkv_bias": True},
        "qwen3": {"normalization": "rmsnorm", "activation": "swiglu", "bias": False, "qk_norm": True},
    }.get(family.model_type, {"normalization": "rmsnorm", "activation": "swiglu", "bias": False})
    _check_bijection(family.rules, make_gpt(**fields))


@pytest.mark.parametrize("spelling", ["local", "te", "legacy"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("position_embedding", ["rope", "learned"])
def test_every_megatron_table_is_a_bijection(spelling, activation, position_embedding, make_gpt):
    model = make_gpt(activation=activation, position_embedding=position_embedding, num_query_groups=2)
    _check_bijection(rules(spelling, gated=activation == "swiglu"), model)


def _check_bijection(table, model):
    ours = model.state_dict()
    moves = fill_in(table, model.config, ours)
    theirs = dict(to_theirs(moves, model.config, ours))
    assert len(theirs) == sum(len(move.theirs) for move in moves)
    assert sum(tensor.numel() for tensor in theirs.values()) == sum(tensor.numel() for tensor in ours.values())
    back = dict(to_ours(moves, model.config, theirs))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_a_table_that_forgets_a_tensor_is_noticed():
    with pytest.raises(AssertionError, match=r"final_norm\.bias"):
        fill_in([Rule("embedding.weight", "wte.weight")], CONFIG, tensor_shapes(CONFIG))


def test_names_are_compared_strictly():
    refuse_other_names(["a", "b"], ["b", "a"], "file")
    with pytest.raises(ValueError, match=r"file: .*: 1 missing \(a\); 4 unexpected \(c, d, e, \.\.\.\)"):
        refuse_other_names(["a", "b"], ["b", "f", "e", "d", "c"], "file")
