import pytest
import torch

from retrolit.models import GPT, GPTConfig
from retrolit.training import OptimizerConfig
from retrolit.training.optimizer import make_optimizer


def test_matrices_decay_and_vectors_do_not():
    model = GPT(GPTConfig(vocab_size=30, hidden_size=8, num_layers=2, num_attention_heads=2, max_position_embeddings=8))
    optimizer = make_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    assert {id(w) for w in decayed["params"]} == {id(w) for w in model.parameters() if w.ndim == 2}
    assert {id(w) for w in plain["params"]} == {id(w) for w in model.parameters() if w.ndim == 1}
    assert any(w is model.embedding.weight for w in decayed["params"])


def test_frozen_weights_are_left_out():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in make_optimizer(model, OptimizerConfig()).param_groups] == [1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "optimizer.lr: expected more than 0, got 0.0"),
        ({"betas": (0.9, 1.0)}, r"optimizer.betas: expected two numbers from 0 to below 1, got \[0.9, 1.0\]"),
        ({"weight_decay": -0.1}, "expected weight_decay of at least 0 and eps above 0, got -0.1 and 1e-08"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)
