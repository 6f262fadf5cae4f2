"""Laws of the GPT: causality, positions, switches, initialization, sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retrolit.models import GPT, GPTConfig, KVCache, RopeScaling

TINY = GPTConfig(vocab_size=61, hidden_size=32, num_layers=2, num_attention_heads=4, max_position_embeddings=64)

# Each switch of the config away from its default at least once.
VARIANTS = {
    "default": TINY,
    "gpt2": replace(TINY, position_embedding="learned", activation="gelu_tanh", tied_embeddings=True),
    "neox": replace(TINY, rotary_percent=0.5, parallel_residual=True),
    "llama": replace(
        TINY, normalization="rmsnorm", activation="swiglu", bias=False, qkv_bias=None, num_query_groups=2,
        rope_scaling=RopeScaling("llama3", factor=4.0, original_max_position_embeddings=16), ffn_hidden_size=None,
    ),
    "qwen3": replace(TINY, normalization="rmsnorm", activation="swiglu", qk_norm=True, num_query_groups=1, head_dim=6),
    "nemotron": replace(TINY, normalization="layernorm1p", activation="squared_relu", bias=False, qkv_bias=True),
    "nope": replace(TINY, position_embedding="none", activation="geglu", final_norm=False),
    "relu": replace(TINY, activation="relu", rope_scaling=RopeScaling("linear", factor=2.0)),
}  # fmt: skip


def build(config: GPTConfig) -> GPT:
    """A model in eval mode all of whose weights are random: no gain is 1, no bias 0."""
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, TINY.vocab_size, shape)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest) -> GPT:
    return build(request.param)


def test_a_token_sees_itself_and_what_came_before_and_nothing_else(model: GPT) -> None:
    length = 7
    embedded = {}

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        embedded["x"] = output.detach().requires_grad_()
        return embedded["x"]

    model.embedding.register_forward_hook(keep)
    for position in range(length):
        logits = model(random_tokens(1, length))
        (gradient,) = torch.autograd.grad(logits[0, position].square().sum(), embedded["x"])
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.tolist() == [other <= position for other in range(length)]


def test_rows_do_not_see_each_other(model: GPT) -> None:
    tokens = random_tokens(3, 9)
    torch.testing.assert_close(model(tokens)[1:2], model(tokens[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[12], [5, 7], [1] * 12, [6, 1, 1, 4]], ids=str)
def test_cached_in_pieces_equals_one_pass(model: GPT, pieces: list[int]) -> None:
    tokens = random_tokens(3, sum(pieces))
    cache = KVCache(model.config, batch_size=3, max_length=16)
    with torch.no_grad():
        cached = torch.cat([model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(cached, model(tokens), atol=1e-5, rtol=1e-5)
    assert cache.length == 12


@pytest.mark.parametrize("pieces", [[9, 1, 1], [4, 6, 1]], ids=str)
def test_left_padded_rows_equal_each_row_alone(model: GPT, pieces: list[int]) -> None:
    length, padding = sum(pieces), torch.tensor([0, 3, 8])
    tokens = random_tokens(3, length)
    cache = KVCache(model.config, 3, length, left_padding=padding)
    with torch.no_grad():
        cached = torch.cat([model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)], dim=1)
        assert cached.isfinite().all()
        for row, skipped in enumerate(padding.tolist()):
            alone = model(tokens[row : row + 1, skipped:])
            torch.testing.assert_close(cached[row : row + 1, skipped:], alone, atol=1e-5, rtol=1e-5)


def test_loss_is_the_cross_entropy_of_the_logits(model: GPT) -> None:
    tokens, labels = random_tokens(2, 11), random_tokens(2, 11)
    mask = torch.rand(2, 11) < 0.5
    loss = model.loss(tokens, labels, mask)
    expected = F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="none").view(2, 11)
    torch.testing.assert_close(loss.tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.mean, expected[mask].mean(), atol=1e-5, rtol=1e-5)
    assert not loss.tokens.requires_grad

    gradients = torch.autograd.grad(loss.mean, list(model.parameters()))
    expected_gradients = torch.autograd.grad(expected[mask].mean(), list(model.parameters()))
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)


def test_loss_without_a_mask_counts_every_token_and_with_an_empty_one_none() -> None:
    model, tokens, labels = build(TINY), random_tokens(2, 5), random_tokens(2, 5)
    loss = model.loss(tokens, labels)
    torch.testing.assert_close(loss.mean, loss.tokens.mean())
    empty = model.loss(tokens, labels, torch.zeros(2, 5))
    empty.mean.backward()
    assert empty.mean == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_an_untrained_model_is_as_unsure_as_chance() -> None:
    loss = GPT(TINY).loss(random_tokens(4, 32), random_tokens(4, 32)).mean.item()
    spread = 2 / 5  # variance of a logit: hidden_size x init_std^2
    assert loss == pytest.approx(math.log(TINY.vocab_size) + spread / 2, abs=0.1)


def test_grouped_attention_is_attention_with_repeated_keys_and_values() -> None:
    grouped = build(replace(TINY, num_query_groups=2))
    full = GPT(replace(TINY, num_query_groups=4)).eval()
    weights = grouped.state_dict()
    for name in [name for name in weights if ".qkv." in name]:
        # (2 groups, 2 queries + key + value) -> 4 groups of (query, key, value)
        groups = weights[name].unflatten(0, (2, 4, 8))
        triples = [groups[g][[q, 2, 3]] for g in range(2) for q in range(2)]
        weights[name] = torch.cat(triples).flatten(0, 1)
    full.load_state_dict(weights)
    tokens = random_tokens(2, 10)
    torch.testing.assert_close(grouped(tokens), full(tokens), atol=1e-5, rtol=1e-5)


def test_a_parallel_layer_adds_attention_and_mlp_of_the_same_input() -> None:
    layer = build(VARIANTS["neox"]).layers[0]
    x = torch.randn(2, 5, 32)
    expected = x + layer.attention(layer.attention_norm(x)) + layer.mlp(layer.mlp_norm(x))
    torch.testing.assert_close(layer(x), expected)


def test_checkpointed_activations_give_the_same_loss_and_gradients(model: GPT) -> None:
    model.train()
    tokens, labels = random_tokens(2, 8), random_tokens(2, 8)
    plain = model.loss(tokens, labels).mean
    expected = torch.autograd.grad(plain, list(model.parameters()))
    model.checkpoint_activations = True
    recomputed = model.loss(tokens, labels).mean
    torch.testing.assert_close(recomputed, plain)
    torch.testing.assert_close(torch.autograd.grad(recomputed, list(model.parameters())), expected)


def test_checkpointed_activations_are_computed_again_in_the_backward_pass() -> None:
    model, calls = GPT(TINY), []
    model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.checkpoint_activations = True
    model.loss(random_tokens(1, 4), random_tokens(1, 4)).mean.backward()
    assert len(calls) == 2
    with torch.no_grad():
        model(random_tokens(1, 4))
    assert len(calls) == 3


@pytest.mark.parametrize("field", ["attention_dropout", "hidden_dropout"])
def test_dropout_acts_in_training_only(field: str) -> None:
    model = GPT(replace(TINY, **{field: 0.5}))
    tokens = random_tokens(1, 16)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    torch.testing.assert_close(model(tokens), model(tokens))


def test_initial_weights_have_the_promised_spread() -> None:
    model = GPT(replace(TINY, hidden_size=128, num_layers=8, init_std=0.03, normalization="layernorm1p"))
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert not parameter.any(), name
        else:
            into_residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
            expected = 0.03 / 4 if into_residual else 0.03
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
    for name, parameter in GPT(replace(TINY, qk_norm=True)).named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight"))), name


def test_a_generator_makes_the_weights_reproducible() -> None:
    first, second = GPT(TINY), GPT(TINY)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)
    first.reset_parameters(torch.Generator().manual_seed(7))
    second.reset_parameters(torch.Generator().manual_seed(7))
    torch.testing.assert_close(dict(first.named_parameters()), dict(second.named_parameters()), atol=0, rtol=0)


def test_a_meta_model_comes_alive_with_the_weights_of_another(model: GPT) -> None:
    with torch.device("meta"):
        hollow = GPT(model.config)
    assert all(tensor.is_meta for tensor in hollow.state_dict().values())
    hollow.load_state_dict(model.state_dict(), assign=True)
    tokens = random_tokens(1, 6)
    torch.testing.assert_close(hollow.eval()(tokens), model(tokens))


# NVIDIA's GPTs, from which its Retro models were made: layers, hidden size, heads, MLP width, billions of parameters.
@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "ffn", "billions"),
    [
        (24, 1024, 16, 2688, 0.8232),
        (24, 2048, 16, 5440, 2.2536),
        (32, 4096, 32, 10880, 8.5234),
        (40, 6144, 48, 16384, 21.266),
        (48, 8192, 64, 21824, 42.825),
    ],
)
def test_parameter_counts_of_the_papers_models(layers: int, hidden: int, heads: int, ffn: int, billions: float) -> None:
    with torch.device("meta"):
        model = GPT(
            GPTConfig(
                vocab_size=256_000, hidden_size=hidden, num_layers=layers, num_attention_heads=heads,
                max_position_embeddings=4096, ffn_hidden_size=ffn, normalization="layernorm1p", activation="swiglu",
                rotary_percent=0.5, bias=False,
            )
        )  # fmt: skip
    expected = 2 * 256_000 * hidden + layers * (4 * hidden**2 + 3 * hidden * ffn) + 2 * hidden * (2 * layers + 1)
    assert model.num_parameters() == expected
    assert expected / 1e9 == pytest.approx(billions, rel=5e-5)


def test_flops_are_those_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, length = GPT(replace(VARIANTS["llama"], num_layers=3)), 16
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(random_tokens(2, length)).flatten(0, 1), random_tokens(2 * length)).backward()
    # Torch's counter knows that the fused backward makes the attention matrix once more, which we do not count:
    # so only the weights' part is compared.
    linear = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    attention = 12 * 3 * 32 * length
    assert model.flops_per_token(length) == linear // (2 * length) + attention


def test_positions_beyond_learned_ones_are_refused() -> None:
    model = GPT(replace(TINY, position_embedding="learned", max_position_embeddings=8))
    model(random_tokens(1, 8))
    with pytest.raises(ValueError, match=r"expected at most 8 positions .* got 9"):
        model(random_tokens(1, 9))


def test_rotary_positions_reach_beyond_the_length_meant() -> None:
    short, long = build(replace(TINY, max_position_embeddings=8)), build(TINY)
    long.load_state_dict(short.state_dict())
    tokens = random_tokens(1, 40)
    torch.testing.assert_close(short(tokens), long(tokens))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_agree_with_float32(dtype: torch.dtype, model: GPT) -> None:
    tokens, labels = random_tokens(2, 8), random_tokens(2, 8)
    expected = model.loss(tokens, labels).mean
    loss = model.to(dtype).loss(tokens, labels)
    assert model(tokens).dtype == dtype
    assert loss.tokens.dtype == torch.float32
    torch.testing.assert_close(loss.mean.float(), expected, atol=0, rtol=1e-5 if dtype == torch.float64 else 3e-2)


def test_autocast_trains_float32_weights(model: GPT) -> None:
    tokens, labels = random_tokens(2, 8), random_tokens(2, 8)
    expected = model.loss(tokens, labels).mean
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, labels).mean
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=0, rtol=3e-2)
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(model: GPT) -> None:
    tokens, labels, padding = random_tokens(3, 9), random_tokens(3, 9), torch.tensor([0, 2, 5])
    answers = []
    for device in ("cpu", "cuda"):
        model.to(device)
        loss = model.loss(tokens.to(device), labels.to(device)).mean
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        cache = KVCache(model.config, 3, 9, left_padding=padding, device=device)
        with torch.no_grad():
            cached = torch.cat([model(piece.to(device), cache=cache) for piece in tokens.split([7, 1, 1], 1)], dim=1)
        answers.append([loss.detach().cpu(), cached.cpu(), *(gradient.cpu() for gradient in gradients)])
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-3)


def test_compiled_loss_and_gradients_are_the_same() -> None:
    model, tokens, labels = build(VARIANTS["llama"]), random_tokens(2, 8), random_tokens(2, 8)
    expected = model.loss(tokens, labels).mean
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    model.compile_layers(backend="aot_eager", fullgraph=True)
    compiled = model.loss(tokens, labels).mean
    torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(compiled, list(model.parameters()))
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)
