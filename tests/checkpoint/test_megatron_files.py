"""Megatron's checkpoint folders: every way they are cut and spelled gives the same model, and the way back too."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from retrolit.checkpoint import load_model, save_model
from retrolit.checkpoint.megatron import rules, spelling_of
from retrolit.checkpoint.megatron_files import TRACKER, from_megatron, open_megatron, to_megatron
from retrolit.checkpoint.model_folder import open_model
from retrolit.checkpoint.model_types import tensor_shapes
from retrolit.checkpoint.tables import fill_in, to_ours
from retrolit.tokens import ByteTokenizer

# checkpoint folder -> the fixture with its weights in one piece and its logits
CHECKPOINTS = {
    "gpt_rope_1p_swiglu": "gpt_rope_1p_swiglu",
    "legacy_gpt_released_like": "legacy_gpt_released_like",
    "legacy_gpt_layernorm_names": "legacy_gpt_released_like",
}


@pytest.mark.parametrize("ranks", ["tp1", "tp2"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_megatrons_checkpoints_give_its_weights_and_logits(shared, tmp_path, name, ranks):
    fixtures = shared / "fixtures/megatron"
    said = json.loads((fixtures / CHECKPOINTS[name] / "config.json").read_text())
    from_megatron(fixtures / name / "checkpoint" / ranks, tmp_path / "model", vocab_size=said["vocab_size"])
    config, tensors = open_model(tmp_path / "model")
    assert config.vocab_size == said["vocab_size"]
    whole = load_file(fixtures / CHECKPOINTS[name] / "model.safetensors")
    moves = fill_in(rules(spelling_of(whole), gated=True), config, tensor_shapes(config))
    for our_name, expected in to_ours(moves, config, whole):
        rows = slice(said["vocab_size"]) if our_name in ("embedding.weight", "output.weight") else slice(None)
        assert torch.equal(tensors[our_name].float(), expected[rows]), our_name
    model = load_model(tmp_path / "model")
    cases = load_file(fixtures / CHECKPOINTS[name] / "cases.safetensors")
    for case in said["cases"]:
        logits = cases[f"{case}.logits"][..., : said["vocab_size"]]
        torch.testing.assert_close(model(cases[f"{case}.tokens"]), logits, atol=1e-4, rtol=1e-4)


def test_the_notes_say_what_was_decided(shared, tmp_path):
    folder = shared / "fixtures/megatron/legacy_gpt_released_like/checkpoint/tp1"
    notes = "\n".join(from_megatron(folder, tmp_path / "model"))
    assert "legacy names, 1 tensor-parallel rank" in notes
    assert "vocabulary of 96, padding included: its true size is not known" in notes
    assert "left out 49 entries that are no weights: _extra_state" in notes


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    "fields",
    [
        {"normalization": "layernorm1p", "activation": "swiglu", "bias": False, "rotary_percent": 0.5},
        {"position_embedding": "learned", "tied_embeddings": True},
        {"normalization": "rmsnorm", "activation": "swiglu", "qkv_bias": True, "bias": False, "qk_norm": True},
        {"num_attention_heads": 8, "num_query_groups": 4, "activation": "squared_relu"},
    ],
    ids=["retro-like", "gpt2-like", "qwen-like", "grouped"],
)
def test_to_megatron_and_back_changes_nothing(make_gpt, tmp_path, fields, ranks):
    model = make_gpt(**fields)
    save_model(model, tmp_path / "model")
    to_megatron(tmp_path / "model", tmp_path / "megatron", tensor_parallel=ranks)
    checkpoint = open_megatron(tmp_path / "megatron")
    assert len(checkpoint.ranks) == ranks
    assert checkpoint.options["padded_vocab_size"] == 128 * ranks
    assert checkpoint.ranks[0]["embedding.word_embeddings.weight"].shape == (128, 32)
    from_megatron(tmp_path / "megatron", tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert back.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_a_rank_of_a_gated_mlp_holds_its_own_gate_and_up_rows(make_gpt, tmp_path):
    model = make_gpt(activation="swiglu")
    save_model(model, tmp_path / "model")
    to_megatron(tmp_path / "model", tmp_path / "megatron", tensor_parallel=2)
    mlp = model.layers[0].mlp
    for rank, tensors in enumerate(open_megatron(tmp_path / "megatron").ranks):
        rows = slice(rank * 20, rank * 20 + 20)
        expected = torch.cat([mlp.gate.weight[rows], mlp.up.weight[rows]])
        assert torch.equal(tensors["decoder.layers.0.mlp.linear_fc1.weight"], expected)


def test_written_files_hold_their_own_rows_only(make_gpt, tmp_path):
    save_model(make_gpt(vocab_size=4096), tmp_path / "model")
    sizes = []
    for ranks in (1, 4):
        to_megatron(tmp_path / "model", tmp_path / f"megatron{ranks}", tensor_parallel=ranks)
        sizes.append((tmp_path / f"megatron{ranks}/release/mp_rank_00/model_optim_rng.pt").stat().st_size)
    assert sizes[1] < sizes[0] / 2


def test_the_vocabulary_is_that_of_the_tokenizer(make_gpt, tmp_path):
    _write(make_gpt(vocab_size=257), tmp_path, vocab_size=None)
    notes = from_megatron(tmp_path / "m", tmp_path / "a", ByteTokenizer())
    assert "vocabulary of 257 (the tokenizer's); 127 padding rows cut off" in notes
    assert load_model(tmp_path / "a").config.vocab_size == 257
    from_megatron(tmp_path / "m", tmp_path / "b")
    assert load_model(tmp_path / "b").config.vocab_size == 384
    with pytest.raises(ValueError, match=r"expected up to the 384 rows of the checkpoint, got 385 \(as given\)"):
        from_megatron(tmp_path / "m", tmp_path / "c", vocab_size=385)


def test_ranks_that_disagree_are_reported(make_gpt, tmp_path):
    _write(make_gpt(), tmp_path, ranks=2)
    _edit(tmp_path / "m", 1, lambda content: content["model"]["decoder.final_layernorm.weight"].add_(1))
    notes = from_megatron(tmp_path / "m", tmp_path / "model")
    assert "ranks disagree about 1 tensors that should be equal; rank 0's were taken" in notes


def test_the_tracker_names_the_folder(make_gpt, tmp_path):
    _write(make_gpt(), tmp_path)
    (tmp_path / "m/release").rename(tmp_path / "m/iter_0000120")
    (tmp_path / "m" / TRACKER).write_text("120\n")
    assert open_megatron(tmp_path / "m").path == tmp_path / "m/iter_0000120"
    assert open_megatron(tmp_path / "m/iter_0000120").path == tmp_path / "m/iter_0000120"
    (tmp_path / "m" / TRACKER).write_text("../elsewhere")
    with pytest.raises(ValueError, match=r"expected a number or release, got '\.\./elsewhere'"):
        open_megatron(tmp_path / "m")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (shutil.rmtree, FileNotFoundError, "there is no such folder"),
        (lambda folder: (folder / TRACKER).unlink(), FileNotFoundError, "expected Megatron's latest_checkpointed"),
        (lambda folder: shutil.rmtree(folder / "release/mp_rank_00"), FileNotFoundError, "without a gap, got 01"),
        (lambda folder: shutil.rmtree(folder / "release/mp_rank_01"), ValueError, "expected 2 tensor-parallel ranks"),
        (lambda folder: (folder / "release/mp_rank_01/model_optim_rng.pt").unlink(), FileNotFoundError, "missing"),
        (lambda folder: (folder / "release/mp_rank_02_000").mkdir(), ValueError, "pipeline parallelism"),
        (lambda folder: (folder / "release/metadata.json").write_text("{}"), ValueError, "torch_dist format"),
        (lambda folder: _edit(folder, 0, lambda c: c.pop("model")), ValueError, "expected a Megatron checkpoint"),
        (lambda folder: _edit(folder, 0, lambda c: c.update(model=[])), ValueError, "expected a Megatron checkpoint"),
        (lambda folder: _edit(folder, 0, lambda c: c.update(args={})), ValueError, "expected a Megatron checkpoint"),
        (lambda folder: _edit(folder, 0, lambda c: c.update(checkpoint_version=1.0)), ValueError, "expected 2.0 or"),
        (lambda folder: _drop(folder, [1], "output_layer.weight"), ValueError, "mp_rank_01.*1 missing .output_layer"),
        (lambda folder: _drop(folder, [0, 1], "output_layer.weight"), ValueError, "release: .*1 missing .output_layer"),
        (lambda folder: _add(folder, "decoder.adapter.weight"), ValueError, "1 unexpected .decoder.adapter.weight"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_whole_is_refused_in_a_sentence(make_gpt, tmp_path, damage, error, message):
    _write(make_gpt(), tmp_path, ranks=2)
    damage(tmp_path / "m")
    with pytest.raises(error, match=message):
        from_megatron(tmp_path / "m", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_tensor_of_the_wrong_shape_is_named(make_gpt, tmp_path):
    _write(make_gpt(), tmp_path)
    _edit(tmp_path / "m", 0, lambda c: c["model"].update({"decoder.final_layernorm.weight": torch.ones(7)}))
    with pytest.raises(ValueError, match=r"final_norm\.weight: expected the shape \(32,\) from the config, got \(7,\)"):
        from_megatron(tmp_path / "m", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "source"]


def test_a_tensor_parallel_size_that_does_not_divide_is_refused(make_gpt, tmp_path):
    with pytest.raises(ValueError, match="tensor_parallel: expected at least 1, got 0"):
        to_megatron(tmp_path / "model", tmp_path / "megatron", tensor_parallel=0)
    save_model(make_gpt(num_query_groups=2), tmp_path / "model")
    with pytest.raises(ValueError, match=r"tensor_parallel: expected a divisor of num_query_groups \(2\), got 4"):
        to_megatron(tmp_path / "model", tmp_path / "megatron", tensor_parallel=4)


def _write(model, tmp_path: Path, ranks: int = 1, **options) -> None:
    """The model as a Megatron checkpoint at tmp_path/m, with these options changed."""
    save_model(model, tmp_path / "source")
    to_megatron(tmp_path / "source", tmp_path / "m", tensor_parallel=ranks)
    for rank in range(ranks):
        _edit(tmp_path / "m", rank, lambda content: vars(content["args"]).update(options))


def _edit(folder: Path, rank: int, change) -> None:
    file = folder / f"release/mp_rank_{rank:02d}/model_optim_rng.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(file)
    change(content)
    torch.save(content, file)


def _drop(folder: Path, ranks: list[int], name: str) -> None:
    for rank in ranks:
        _edit(folder, rank, lambda content: content["model"].pop(name))


def _add(folder: Path, name: str) -> None:
    for rank in (0, 1):
        _edit(folder, rank, lambda content: content["model"].update({name: torch.ones(3)}))
