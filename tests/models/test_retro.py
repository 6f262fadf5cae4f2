"""Laws of Retro: who sees what, what masked and missing neighbors do, and what is left without retrieval."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from retrolit.models import GPT, KVCache, Retro, RetroCache, RetroConfig
from tests.models.retro_models import (
    DECODER,
    NVIDIA,
    TINY,
    VARIANTS,
    VOCABULARY,
    build,
    ends_of,
    random_neighbors,
    random_tokens,
)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest) -> Retro:
    return build(request.param)


def random_mask(neighbors: Tensor) -> Tensor:
    """Padding at the neighbors' ends; of the first sample one neighbor and all those of one chunk are missing."""
    lengths = torch.randint(1, neighbors.shape[-1] + 1, neighbors.shape[:-1])
    lengths[0, 0, 0] = 0
    lengths[0, -1] = 0
    return torch.arange(neighbors.shape[-1]) < lengths[..., None]


def embeddings_of(model: Retro) -> list[Tensor]:
    """What the embedding gives in the next forward pass, as leaves: first of the tokens, then of the neighbors."""
    leaves: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    model.decoder.embedding.register_forward_hook(keep)
    return leaves


def lengths_of(config: RetroConfig) -> range:
    return range(1, 3 * config.chunk_length + 2)


def test_who_sees_what_by_gradient(model: Retro) -> None:
    """A token sees those up to itself, and the neighbors of every chunk whose last token is among those."""
    for length in lengths_of(model.config):
        leaves = embeddings_of(model)
        tokens, neighbors = random_tokens(1, length), random_neighbors(model.config, 1, length)
        logits = model(tokens, neighbors)
        ends = ends_of(model.config, length)
        # A weighted sum: the plain one is what a norm keeps constant.
        weights = torch.randn(logits.shape[-1])
        for position in range(length):
            gradients = torch.autograd.grad(
                logits[0, position] @ weights, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            seen = [(gradient[0].flatten(1).abs().sum(-1) > 0).tolist() for gradient in gradients]
            assert seen[0] == [other <= position for other in range(length)], (length, position)
            assert seen[1] == [end - 1 <= position for end in ends], (length, position)
        model.decoder.embedding._forward_hooks.clear()


def test_every_token_of_every_neighbor_is_seen(model: Retro) -> None:
    leaves = embeddings_of(model)
    length = 2 * model.config.chunk_length
    logits = model(random_tokens(1, length), random_neighbors(model.config, 1, length))
    (gradient,) = torch.autograd.grad((logits[0, -1] @ torch.randn(VOCABULARY)), leaves[1:])
    assert (gradient.abs().sum(-1) > 0).all()  # of both chunks: the first is seen through the tokens that read it


def test_who_sees_what_by_substitution(model: Retro) -> None:
    with torch.no_grad():
        for length in lengths_of(model.config):
            tokens, neighbors = random_tokens(1, length), random_neighbors(model.config, 1, length)
            logits = model(tokens, neighbors)
            for chunk, end in enumerate(ends_of(model.config, length)):
                others = neighbors.clone()
                others[:, chunk] = (others[:, chunk] + 1) % VOCABULARY
                changed = (model(tokens, others) - logits).abs().amax(-1)[0] > 1e-7
                assert changed.tolist() == [position >= end - 1 for position in range(length)]


def test_a_prefix_on_the_same_grid_has_the_same_logits(model: Retro) -> None:
    with torch.no_grad():
        for length in lengths_of(model.config):
            whole = length + model.config.chunk_length
            tokens, neighbors = random_tokens(2, whole), random_neighbors(model.config, 2, whole)
            prefix = model(tokens[:, :length], neighbors[:, :-1])
            torch.testing.assert_close(prefix, model(tokens, neighbors)[:, :length], atol=1e-5, rtol=1e-5)


def test_padding_is_not_seen() -> None:
    for config in (variant for variant in VARIANTS.values() if variant.mask_padding):
        model = build(config)
        leaves = embeddings_of(model)
        tokens, neighbors = random_tokens(2, 11), random_neighbors(config, 2, 11)
        mask = random_mask(neighbors)
        logits = model(tokens, neighbors, mask)
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaves[1:])
        assert gradient.isfinite().all()
        assert not gradient[~mask].any()
        assert (gradient.abs().sum(-1) > 0)[1][mask[1]].all()
        others = torch.where(mask, neighbors, random_tokens(*neighbors.shape))
        torch.testing.assert_close(model(tokens, others, mask), logits, atol=0, rtol=0)


def test_a_mask_of_nothing_is_no_mask(model: Retro) -> None:
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    logits = model(tokens, neighbors, torch.ones_like(neighbors, dtype=torch.bool))
    torch.testing.assert_close(logits, model(tokens, neighbors), atol=1e-5, rtol=1e-5)


def test_padding_cut_off_is_padding_masked() -> None:
    """Masking is as if the masked were not there: neighbors with padding equal shorter ones without."""
    model = build(TINY)
    tokens, neighbors = random_tokens(2, 12), random_neighbors(TINY, 2, 12)
    mask = (torch.arange(8) < 5).expand_as(neighbors)
    torch.testing.assert_close(model(tokens, neighbors, mask), model(tokens, neighbors[..., :5]), atol=1e-5, rtol=1e-5)
    one = mask.clone()
    one[:, :, 1] = False
    expected = model(tokens, neighbors[:, :, :1, :5])
    torch.testing.assert_close(model(tokens, neighbors, one), expected, atol=1e-5, rtol=1e-5)


def test_where_padding_is_seen_a_missing_neighbor_is_not() -> None:
    model = build(NVIDIA)
    tokens, neighbors = random_tokens(2, 12), random_neighbors(NVIDIA, 2, 12)
    mask = (torch.arange(8) < 5).repeat(2, 3, 2, 1)
    torch.testing.assert_close(model(tokens, neighbors, mask), model(tokens, neighbors), atol=1e-5, rtol=1e-5)
    mask[:, :, 1] = False
    torch.testing.assert_close(model(tokens, neighbors, mask), model(tokens, neighbors[:, :, :1]), atol=1e-5, rtol=1e-5)


def test_a_sample_without_neighbors_gets_exactly_nothing(model: Retro) -> None:
    tokens, neighbors = random_tokens(3, 11), random_neighbors(model.config, 3, 11)
    mask = torch.ones_like(neighbors, dtype=torch.bool)
    mask[1] = False
    logits, plain = model(tokens, neighbors, mask), model.decoder(tokens)
    assert torch.equal(logits[1], plain[1])
    assert not torch.allclose(logits[0], plain[0])
    assert torch.equal(model(tokens, neighbors, torch.zeros_like(mask)), plain)

    model.loss(tokens, tokens, None, neighbors, torch.zeros_like(mask)).mean.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        if "cross_attention" in name or name.startswith("encoder."):
            assert parameter.grad is None or not parameter.grad.any(), name


def test_the_first_positions_get_exactly_nothing() -> None:
    model = build(replace(TINY, retro_layers=[3]))
    tokens, neighbors = random_tokens(2, 12), random_neighbors(TINY, 2, 12)
    assert torch.equal(model(tokens, neighbors)[:, :3], model.decoder(tokens)[:, :3])


def test_the_order_of_neighbors_means_nothing(model: Retro) -> None:
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    mask = random_mask(neighbors)
    order = torch.randperm(neighbors.shape[2]).flip(0)
    permuted = model(tokens, neighbors[:, :, order], mask[:, :, order])
    torch.testing.assert_close(permuted, model(tokens, neighbors, mask), atol=1e-5, rtol=1e-5)


def test_samples_do_not_see_each_other(model: Retro) -> None:
    tokens, neighbors = random_tokens(3, 11), random_neighbors(model.config, 3, 11)
    mask = random_mask(neighbors)
    alone = model(tokens[1:2], neighbors[1:2], mask[1:2])
    torch.testing.assert_close(model(tokens, neighbors, mask)[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["gate 0", "no neighbors"])
def test_without_retrieval_it_is_the_decoder_and_runs_no_encoder(model: Retro, how: str) -> None:
    ran = []
    for module in [model.encoder, *(layer.cross_attention for layer in model.retro_layers.values())]:
        assert module is not None
        module.register_forward_pre_hook(lambda *_: ran.append(1))
        for part in module.modules():
            part.register_forward_pre_hook(lambda *_: ran.append(1))
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    logits = model(tokens, neighbors, gate=0) if how == "gate 0" else model(tokens)
    assert not ran
    assert torch.equal(logits, model.decoder(tokens))
    model(tokens, neighbors)
    assert ran


def test_the_gate_scales_what_is_added() -> None:
    """In the last layer, with an MLP that does nothing and no final norm, logits are linear in the gate."""
    config = replace(TINY, decoder=replace(DECODER, final_norm=False), retro_layers=[3])
    model = build(config)
    nn.init.zeros_(model.decoder.layers[2].mlp.down.weight)
    tokens, neighbors = random_tokens(1, 9), random_neighbors(config, 1, 9)
    off, half, on = (model(tokens, neighbors, gate=gate) for gate in (0, 0.5, 1))
    torch.testing.assert_close(half, (off + on) / 2, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(on, off)


def test_the_chunk_length_of_a_call_takes_the_configs_place() -> None:
    model, longer = build(TINY), Retro(replace(TINY, chunk_length=7)).eval()
    longer.load_state_dict(model.state_dict())
    tokens, neighbors = random_tokens(2, 17), random_tokens(2, 3, 2, 8)
    torch.testing.assert_close(model(tokens, neighbors, chunk_length=7), longer(tokens, neighbors))


@pytest.mark.parametrize(("neighbors", "length"), [(1, 3), (5, 8), (2, 20)])
def test_any_number_and_length_of_neighbors(model: Retro, neighbors: int, length: int) -> None:
    chunks = len(ends_of(model.config, 11))
    assert model(random_tokens(2, 11), random_tokens(2, chunks, neighbors, length)).isfinite().all()


def test_loss_is_the_cross_entropy_of_the_logits(model: Retro) -> None:
    tokens, labels, neighbors = random_tokens(2, 11), random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    mask, loss_mask = random_mask(neighbors), torch.rand(2, 11) < 0.5
    loss = model.loss(tokens, labels, loss_mask, neighbors, mask, gate=0.5)
    logits = model(tokens, neighbors, mask, 0.5)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 11)
    torch.testing.assert_close(loss.tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.mean, expected[loss_mask].mean(), atol=1e-5, rtol=1e-5)


def test_checkpointed_activations_give_the_same_loss_and_gradients(model: Retro) -> None:
    model.train()
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    mask = random_mask(neighbors)
    plain = model.loss(tokens, tokens, None, neighbors, mask).mean
    expected = torch.autograd.grad(plain, list(model.parameters()))
    model.checkpoint_activations = True
    assert model.decoder.checkpoint_activations
    ran = []
    model.encoder.layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    recomputed = model.loss(tokens, tokens, None, neighbors, mask).mean
    torch.testing.assert_close(recomputed, plain)
    torch.testing.assert_close(torch.autograd.grad(recomputed, list(model.parameters())), expected)
    assert len(ran) == 2


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, encoder_attention_dropout=0.5),
        replace(TINY, encoder_hidden_dropout=0.5),
        replace(TINY, decoder=replace(DECODER, hidden_dropout=0.5)),
        replace(TINY, decoder=replace(DECODER, attention_dropout=0.5)),
    ],
    ids=["encoder attention", "encoder hidden", "hidden", "attention"],
)
def test_dropout_acts_in_training_only(config: RetroConfig) -> None:
    model = build(config).train()
    tokens, neighbors = random_tokens(1, 12), random_neighbors(config, 1, 12)
    assert not torch.equal(model(tokens, neighbors), model(tokens, neighbors))
    model.eval()
    torch.testing.assert_close(model(tokens, neighbors), model(tokens, neighbors), atol=0, rtol=0)


def test_retro_fitting_starts_as_the_gpt() -> None:
    gpt = build(TINY).to_gpt()
    retro = Retro.from_gpt(gpt, replace(TINY, cross_attention_init="zero")).eval()
    tokens, neighbors = random_tokens(2, 11), random_neighbors(TINY, 2, 11)
    expected = gpt(tokens)
    assert torch.equal(retro(tokens, neighbors), expected)
    assert torch.equal(retro(tokens, neighbors, gate=0), expected)
    ordinary = Retro.from_gpt(gpt, TINY).eval()
    assert torch.equal(ordinary(tokens), expected)
    assert not torch.equal(ordinary(tokens, neighbors), expected)

    # Zero or not, the outputs of the cross-attention learn from the first step on.
    retro.loss(tokens, tokens, None, neighbors).mean.backward()
    assert all(layer.cross_attention.output.weight.grad.any() for layer in retro.retro_layers.values())


def test_retro_fitting_copies_and_the_decoder_taken_out_shares() -> None:
    gpt = GPT(DECODER)
    retro = Retro.from_gpt(gpt, TINY)
    assert retro.decoder.embedding.weight.data_ptr() != gpt.embedding.weight.data_ptr()
    out = retro.to_gpt()
    assert type(out) is GPT
    assert out.embedding.weight.data_ptr() == retro.decoder.embedding.weight.data_ptr()
    assert out.state_dict().keys() == gpt.state_dict().keys()
    assert torch.equal(out(random_tokens(1, 5).fill_(3)), gpt(random_tokens(1, 5).fill_(3)))


def test_retro_fitting_keeps_the_precision() -> None:
    assert Retro.from_gpt(GPT(DECODER).bfloat16(), TINY).encoder.layers[0].mlp.up.weight.dtype == torch.bfloat16


def test_retro_fitting_another_gpt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got hidden_size 16, of the GPT 32; .*pass decoder=gpt.config"):
        Retro.from_gpt(GPT(replace(DECODER, hidden_size=32, head_dim=8, ffn_hidden_size=64)), TINY)


def test_initial_weights_have_the_promised_spread() -> None:
    decoder = replace(DECODER, hidden_size=128, head_dim=64, ffn_hidden_size=512, num_layers=8, init_std=0.03)
    model = Retro(RetroConfig(decoder))
    assert model.config.retro_layers == [6]
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight"))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            into_residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
            assert parameter.std().item() == pytest.approx(0.03 / 4 if into_residual else 0.03, rel=0.05), name


def test_the_decoder_starts_as_the_gpt_of_the_same_seed() -> None:
    gpt, retro, again = GPT(DECODER), Retro(TINY), Retro(TINY)
    for model in (gpt, retro, again):
        model.reset_parameters(torch.Generator().manual_seed(7))
    torch.testing.assert_close(dict(gpt.state_dict()), dict(retro.to_gpt().state_dict()), atol=0, rtol=0)
    torch.testing.assert_close(dict(again.state_dict()), dict(retro.state_dict()), atol=0, rtol=0)


def test_an_untrained_model_is_as_unsure_as_chance() -> None:
    loss = Retro(TINY).loss(random_tokens(4, 32), random_tokens(4, 32), None, random_neighbors(TINY, 4, 32))
    # The final norm gives hidden states of about 1 a number: logits of N(0, width x init_std^2) = N(0, 2/5).
    spread = TINY.decoder.hidden_size * TINY.decoder.init_std**2
    assert loss.mean.item() == pytest.approx(math.log(VOCABULARY) + spread / 2, abs=0.1)


# NVIDIA's models: layers, hidden size, heads, MLP width, billions of parameters of the Retro.
@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "ffn", "billions"),
    [
        (24, 1024, 16, 2688, 0.8775),
        (24, 2048, 16, 5440, 2.4715),
        (32, 4096, 32, 10880, 9.5290),
        (40, 6144, 48, 16384, 23.984),
        (48, 8192, 64, 21824, 48.462),
    ],
)
def test_parameter_counts_of_the_papers_models(layers: int, hidden: int, heads: int, ffn: int, billions: float) -> None:
    decoder = replace(
        NVIDIA.decoder, vocab_size=256_000, hidden_size=hidden, num_layers=layers, num_attention_heads=heads,
        num_query_groups=None, head_dim=None, ffn_hidden_size=ffn, max_position_embeddings=4096,
    )  # fmt: skip
    with torch.device("meta"):
        model = Retro(RetroConfig(decoder))
    attention, mlp, retro = 4 * hidden**2, 3 * hidden * ffn, len(model.config.retro_layers)
    matrices = 2 * 256_000 * hidden + layers * (attention + mlp) + retro * attention + 2 * (attention + mlp) + attention
    assert model.num_parameters() == matrices + 2 * hidden * (2 * layers + retro + 1 + 2 * 2 + 1)
    assert model.num_parameters() / 1e9 == pytest.approx(billions, rel=5e-5)


def test_parameter_counts_of_megatron_cores_own_test() -> None:
    decoder = replace(
        DECODER, num_layers=12, num_attention_heads=4, num_query_groups=None, head_dim=None, ffn_hidden_size=64
    )
    model = Retro(RetroConfig(decoder))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.encoder.named_modules()}
    assert count["layers.0.cross_attention"] == 1088
    assert count["layers.0.mlp_norm"] == 32
    assert count[""] + sum(p.numel() for p in model.retro_layers[6].cross_attention.parameters()) == 8768


def test_flops_are_those_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = replace(VARIANTS["narrow"], decoder=replace(DECODER, bias=False, qkv_bias=None), retro_layers=[1, 3])
    model, length = Retro(config), 20
    tokens, neighbors = random_tokens(2, length), random_neighbors(config, 2, length)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(tokens, neighbors).flatten(0, 1), tokens.flatten()).backward()
    linear = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    # Attention is counted otherwise: torch counts the backward's recomputation.
    parts = model.flops_by_part(length)
    width, read = 16, config.num_neighbors * config.retrieved_length
    attention = 12 * (3 * width * length + 2 * width * read)
    attention += 12 * 12 * read // config.chunk_length * (3 * config.retrieved_length + config.chunk_length)
    assert (model.flops_per_token(length) - attention) * 2 * length == linear
    assert sum(parts.values()) == model.flops_per_token(length)
    assert parts["decoder"] == model.to_gpt().flops_per_token(length)


def test_neighbors_that_do_not_fit_are_refused() -> None:
    model, tokens = build(TINY), random_tokens(2, 11)
    with pytest.raises(ValueError, match=r"expected shape \(2, 3, K, R\), because 3 chunks of 4 tokens .* got \(2, 2,"):
        model(tokens, random_tokens(2, 2, 2, 8))
    with pytest.raises(ValueError, match=r"expected shape \(2, 3, K, R\)"):
        model(tokens, random_tokens(2, 3, 8))
    neighbors = random_neighbors(TINY, 2, 11)
    with pytest.raises(ValueError, match=r"neighbor_mask: expected bool .* got torch.float32 of \(2, 3, 2, 8\)"):
        model(tokens, neighbors, torch.ones_like(neighbors).float())
    with pytest.raises(ValueError, match=r"got torch.bool of \(2, 3, 2\)"):
        model(tokens, neighbors, torch.ones(2, 3, 2, dtype=torch.bool))


def test_neighbors_longer_than_learned_positions_are_refused() -> None:
    model = build(VARIANTS["learned"])
    with pytest.raises(ValueError, match=r"expected at most 64 positions .* got 65"):
        model(random_tokens(1, 4), random_tokens(1, 1, 1, 65))


def test_a_plain_cache_takes_no_neighbors() -> None:
    model = build(TINY)
    cache = KVCache(DECODER, 1, 8)
    torch.testing.assert_close(model(tokens := random_tokens(1, 4), cache=cache), model.decoder(tokens))
    with pytest.raises(ValueError, match="expected a RetroCache when there are neighbors"):
        model(tokens, random_neighbors(TINY, 1, 4), cache=KVCache(DECODER, 1, 8))
    with pytest.raises(ValueError, match="chunk_length: expected the cache's, 4, got 5"):
        model(tokens, random_neighbors(TINY, 1, 4), chunk_length=5, cache=RetroCache(TINY, 1, 8, prompt_length=4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_agree_with_float32(dtype: torch.dtype, model: Retro) -> None:
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    mask = random_mask(neighbors)
    expected = model.loss(tokens, tokens, None, neighbors, mask).mean
    loss = model.to(dtype).loss(tokens, tokens, None, neighbors, mask).mean
    assert model(tokens, neighbors, mask).dtype == dtype
    torch.testing.assert_close(loss.float(), expected, atol=0, rtol=1e-5 if dtype == torch.float64 else 5e-2)


def test_autocast_trains_float32_weights(model: Retro) -> None:
    tokens, neighbors = random_tokens(2, 11), random_neighbors(model.config, 2, 11)
    expected = model.loss(tokens, tokens, None, neighbors).mean
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, tokens, None, neighbors).mean
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=0, rtol=5e-2)
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_a_meta_model_comes_alive_with_the_weights_of_another(model: Retro) -> None:
    with torch.device("meta"):
        hollow = Retro(RetroConfig.from_dict(asdict(model.config)))
    assert all(tensor.is_meta for tensor in hollow.state_dict().values())
    hollow.load_state_dict(model.state_dict(), assign=True)
    tokens, neighbors = random_tokens(1, 6), random_neighbors(model.config, 1, 6)
    torch.testing.assert_close(hollow.eval()(tokens, neighbors), model(tokens, neighbors))


@pytest.mark.slow
def test_compiled_loss_and_gradients_are_the_same() -> None:
    model, tokens, neighbors = build(TINY), random_tokens(2, 8), random_neighbors(TINY, 2, 8)
    mask = random_mask(neighbors)
    expected = model.loss(tokens, tokens, None, neighbors, mask).mean
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    torch.compiler.reset()
    counters["stats"].clear()
    model.compile_layers(backend="aot_eager", fullgraph=True)
    for _ in range(2):
        compiled = model.loss(tokens, tokens, None, neighbors, mask).mean
        torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-5)
        gradients = torch.autograd.grad(compiled, list(model.parameters()))
        torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)
    # One for plain layers, four for all layers that read neighbors, one for each of the encoder's two, the softmax.
    assert counters["stats"]["unique_graphs"] == 8
