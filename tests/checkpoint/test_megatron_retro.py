"""Megatron's Retro checkpoints: every way they are cut and spelled gives the same model, and the way back too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from retrolit.checkpoint import load_model, save_model
from retrolit.checkpoint.megatron import spelling_of
from retrolit.checkpoint.megatron_files import from_megatron, open_megatron, to_megatron
from retrolit.checkpoint.megatron_retro import options_from_retro_config, retro_layers_of, retro_rules
from retrolit.checkpoint.model_folder import open_model
from retrolit.checkpoint.model_types import tensor_shapes
from retrolit.checkpoint.tables import fill_in, to_ours
from retrolit.cli.convert import from_megatron as convert
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig

CHECKPOINTS = [
    "retro_rope_1p_swiglu",
    "retro_learned_bias_gelu_tied",
    "retro_legacy_rope_1p_swiglu",
    "legacy_retro_released_like",
]


@pytest.fixture
def make_retro():
    """A function: fields of the decoder that differ -> a Retro whose every number is random, in eval mode."""

    def make(**fields) -> Retro:
        sizes = {"vocab_size": 61, "hidden_size": 16, "num_layers": 9, "num_attention_heads": 4}
        decoder = GPTConfig(**({**sizes, "max_position_embeddings": 48, "ffn_hidden_size": 24} | fields))
        config = RetroConfig(
            decoder, chunk_length=4, encoder_layers=3, encoder_residual="normed", encoder_rotary=False,
            cross_rotary=False, mask_padding=False,
        )  # fmt: skip
        model = Retro(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        return model

    return make


@pytest.mark.parametrize("ranks", ["tp1", "tp2"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_nvidias_checkpoints_give_its_weights_and_logits(shared, tmp_path, name, ranks):
    folder = shared / "fixtures/megatron" / name
    said = json.loads((folder / "config.json").read_text())
    chunk_length = 4 if name == "legacy_retro_released_like" else None
    size = said["vocab_size"]
    from_megatron(folder / "checkpoint" / ranks, tmp_path / "model", vocab_size=size, chunk_length=chunk_length)
    config, tensors = open_model(tmp_path / "model")
    assert isinstance(config, RetroConfig)
    whole = load_file(folder / "model.safetensors")
    moves = fill_in(retro_rules(config, spelling_of(whole)), config.decoder, tensor_shapes(config))
    for our_name, expected in to_ours(moves, config.decoder, whole):
        rows = slice(size) if our_name in ("decoder.embedding.weight", "decoder.output.weight") else slice(None)
        assert torch.equal(tensors[our_name].float(), expected[rows]), our_name
    model = load_model(tmp_path / "model")
    cases = load_file(folder / "cases.safetensors")
    for case in said["cases"]:
        gate, chunk = cases.get(f"{case}.gate", torch.tensor(1.0)), cases.get(f"{case}.chunk_length")
        logits = model(
            cases[f"{case}.tokens"], cases[f"{case}.neighbors"], gate=gate.item(),
            chunk_length=None if chunk is None else chunk.item(),
        )  # fmt: skip
        torch.testing.assert_close(logits, cases[f"{case}.logits"][..., :size], atol=1e-4, rtol=1e-4)


def test_the_report_says_what_was_decided(shared, tmp_path, capsys):
    folder = shared / "fixtures/megatron"
    convert(str(folder / "legacy_retro_released_like/checkpoint/tp2"), str(tmp_path / "a"))
    said = capsys.readouterr().out
    assert "legacy names, 2 tensor-parallel rank(s)" in said
    assert "a Retro of before Megatron Core, cross-attention in layers 6, 9, 12, chunks of 64 tokens (that of" in said
    assert "168,000 parameters" in said
    assert load_model(tmp_path / "a").config.chunk_length == 64
    convert(str(folder / "retro_rope_1p_swiglu/checkpoint/tp1"), str(tmp_path / "b"))
    said = capsys.readouterr().out
    assert "a Retro Megatron Core's, cross-attention in layers 6, 9, 12, chunks of 4 tokens\n" in said


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    "fields",
    [
        {"normalization": "layernorm1p", "activation": "swiglu", "bias": False, "rotary_percent": 0.5},
        {"position_embedding": "learned", "tied_embeddings": True},
        {"activation": "squared_relu", "final_norm": False},
    ],
    ids=["released", "gpt2-like", "no final norm"],
)
def test_to_megatron_and_back_changes_nothing(make_retro, tmp_path, fields, ranks):
    model = make_retro(**fields)
    save_model(model, tmp_path / "model")
    to_megatron(tmp_path / "model", tmp_path / "megatron", tensor_parallel=ranks)
    checkpoint = open_megatron(tmp_path / "megatron")
    assert len(checkpoint.ranks) == ranks
    from_megatron(tmp_path / "megatron", tmp_path / "back", vocab_size=61)
    back = load_model(tmp_path / "back")
    assert back.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_what_is_written_has_the_names_megatron_has(shared, tmp_path):
    source = shared / "fixtures/megatron/retro_rope_1p_swiglu/checkpoint/tp2"
    from_megatron(source, tmp_path / "model", vocab_size=90)
    to_megatron(tmp_path / "model", tmp_path / "back", tensor_parallel=2, divisible_by=48)
    theirs, ours = open_megatron(source), open_megatron(tmp_path / "back")
    assert ours.ignored == theirs.ignored
    for mine, other in zip(ours.ranks, theirs.ranks, strict=True):
        assert mine.keys() == other.keys()
        for name, tensor in other.items():
            rows = tensor.shape[0] if "embedding" not in name and "output_layer" not in name else 90 - 48
            assert torch.equal(mine[name][:rows], tensor[:rows]), name


def test_core_is_said_to_compute_something_else_where_it_does(make_retro, tmp_path):
    save_model(make_retro(final_norm=False), tmp_path / "same")
    assert len(to_megatron(tmp_path / "same", tmp_path / "a")) == 2
    model = make_retro()
    model.config = replace(model.config, encoder_residual="unnormed", mask_padding=True)
    save_model(model, tmp_path / "other")
    notes = "\n".join(to_megatron(tmp_path / "other", tmp_path / "b"))
    for part in ("its logits will differ", "attends to the padding", "builds Retro without a final norm"):
        assert part in notes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"encoder_rotary": True}, "encoder_rotary=True"),
        ({"cross_rotary": True}, "cross_rotary=True"),
        ({"shifted_keys": True}, "shifted_keys=True"),
        ({"retro_layers": [3]}, r"retro_layers=\[3\]"),
        ({"encoder_hidden_size": 8, "encoder_num_attention_heads": 2}, "encoder_hidden_size=8"),
        ({"encoder_ffn_hidden_size": 8}, "encoder_ffn_hidden_size=8"),
    ],
)
def test_what_megatron_has_no_option_for_is_refused_by_name(make_retro, changes, named):
    config = replace(make_retro().config, **changes)
    with pytest.raises(ValueError, match=f"Megatron has no option for .*{named}"):
        options_from_retro_config(config, padded_vocab_size=64, tensor_parallel=1)


def test_retro_layers_are_those_with_cross_attention():
    legacy = "language_model.encoder.layers"
    assert retro_layers_of([f"{legacy}.8.post_inter_attention_norm.bias", f"{legacy}.7.input_norm.bias"]) == [9]
    inner = f"{legacy}.8.retriever.layers.0.post_inter_attention_norm.weight"
    assert retro_layers_of([inner, f"{legacy}.11.post_inter_attention_norm.bias"]) == [12]
    assert retro_layers_of(["decoder.layers.5.pre_cross_attn_layernorm.weight"]) == [6]
    assert retro_layers_of([f"{legacy}.8.post_attention_norm.bias"]) == []


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("decoder.layers.5.cross_attention.attn.linear_q.weight", None, "1 missing .decoder.layers.5.cross_attention"),
        (None, "decoder.layers.5.cross_attention.encoder.layers.7.adapter", "1 unexpected .*layers.7.adapter"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(make_retro, tmp_path, drop, add, message):
    save_model(make_retro(), tmp_path / "model")
    to_megatron(tmp_path / "model", tmp_path / "megatron")
    file = tmp_path / "megatron/release/mp_rank_00/model_optim_rng.pt"
    _edit(file, drop, add)
    with pytest.raises(ValueError, match=message):
        from_megatron(tmp_path / "megatron", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def _edit(file: Path, drop: str | None, add: str | None) -> None:
    import argparse

    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(file)
    if drop is not None:
        content["model"].pop(drop)
    if add is not None:
        content["model"][add] = torch.ones(3)
    torch.save(content, file)


def test_a_retro_folder_is_a_retro_again(make_retro, tmp_path):
    model = make_retro()
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert isinstance(back, Retro)
    assert back.config == model.config
    tokens, neighbors = torch.randint(0, 61, (1, 9)), torch.randint(0, 61, (1, 3, 2, 8))
    assert torch.equal(back(tokens, neighbors), model(tokens, neighbors))


def test_the_decoder_alone_is_a_gpt_in_every_way_out(make_retro, tmp_path):
    """Saved by itself, taken out, and written for others."""
    model = make_retro(normalization="rmsnorm", activation="swiglu", bias=False)
    tokens = torch.randint(0, 61, (1, 9))
    expected = model(tokens)
    save_model(model.decoder, tmp_path / "decoder")
    save_model(model.to_gpt(), tmp_path / "taken")
    for name in ("decoder", "taken"):
        loaded = load_model(tmp_path / name)
        assert type(loaded) is GPT
        assert torch.equal(loaded(tokens), expected)
    save_model(model, tmp_path / "retro")
    to_megatron(tmp_path / "retro", tmp_path / "megatron", decoder_only=True)
    from_megatron(tmp_path / "megatron", tmp_path / "back", vocab_size=61)
    assert torch.equal(load_model(tmp_path / "back")(tokens), expected)

    from retrolit.checkpoint.huggingface import from_huggingface, to_huggingface

    with pytest.raises(ValueError, match="expected a GPT, got a Retro, for which Hugging Face has no model"):
        to_huggingface(tmp_path / "retro", tmp_path / "hf")
    to_huggingface(tmp_path / "retro", tmp_path / "hf", decoder_only=True)
    from_huggingface(tmp_path / "hf", tmp_path / "again")
    assert torch.equal(load_model(tmp_path / "again")(tokens), expected)
    to_huggingface(tmp_path / "decoder", tmp_path / "of a gpt", decoder_only=True)
