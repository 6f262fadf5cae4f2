"""Model folders: what is saved comes back, and what does not fit is refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from retrolit.checkpoint import load_model, save_model
from retrolit.checkpoint.model_folder import write_model_folder
from retrolit.checkpoint.model_types import tensor_shapes
from retrolit.models import GPTConfig
from retrolit.storage import Manifest
from retrolit.tokens import ByteTokenizer, load_tokenizer

TOKENS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tied_embeddings": True, "position_embedding": "learned"},
        {"normalization": "rmsnorm", "activation": "swiglu", "qk_norm": True, "num_query_groups": 2, "bias": False},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "final_norm": False},
    ],
)
def test_a_saved_model_comes_back_to_the_bit(make_gpt, tmp_path, fields):
    model = make_gpt(**fields)
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert back.config == model.config
    assert not back.training
    assert all(parameter.requires_grad for parameter in back.parameters())
    assert torch.equal(back(TOKENS), model(TOKENS))


def test_the_dtype_is_the_models_on_disk_and_the_callers_in_memory(make_gpt, tmp_path):
    model = make_gpt().bfloat16()
    save_model(model, tmp_path / "model")
    assert {parameter.dtype for parameter in load_model(tmp_path / "model").parameters()} == {torch.float32}
    back = load_model(tmp_path / "model", dtype=torch.bfloat16)
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert (tmp_path / "model/model.safetensors").stat().st_size < 2.2 * model.num_parameters()


@pytest.mark.gpu
def test_a_model_is_loaded_onto_a_device(make_gpt, tmp_path):
    model = make_gpt()
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model", device="cuda")
    torch.testing.assert_close(back(TOKENS.cuda()).cpu(), model(TOKENS), atol=1e-4, rtol=1e-4)


def test_a_folder_carries_its_tokenizer_and_a_manifest(make_gpt, tmp_path):
    model = make_gpt(vocab_size=300)
    save_model(model, tmp_path / "model", ByteTokenizer())
    assert load_tokenizer(tmp_path / "model").fingerprint == ByteTokenizer().fingerprint
    manifest = Manifest.read(tmp_path / "model", "model")
    manifest.verify(tmp_path / "model", deep=True)
    assert manifest.sizes == {"parameters": model.num_parameters()}
    assert manifest.inputs == {"tokenizer": ByteTokenizer().fingerprint}
    assert set(manifest.files) == {"config.json", "model.safetensors", "retrolit_tokenizer.json"}
    assert json.loads((tmp_path / "model/config.json").read_text()) == {
        "format": "retrolit",
        "format_version": 1,
        "model_type": "gpt",
        "config": asdict(model.config),
    }


def test_saving_again_replaces_a_model_and_nothing_else(make_gpt, tmp_path):
    save_model(make_gpt(), tmp_path / "model")
    second = make_gpt(num_layers=1)
    save_model(second, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")(TOKENS), second(TOKENS))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="mine exists already"):
        save_model(second, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_a_lightning_checkpoint_gives_the_same_model(make_gpt, tmp_path):
    model = make_gpt()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"retrolit": {"model_type": "gpt", "config": asdict(model.config)}, "state_dict": state, "epoch": 3}
    torch.save(content, tmp_path / "step.ckpt")
    back = load_model(tmp_path / "step.ckpt")
    assert torch.equal(back(TOKENS), model(TOKENS))
    torch.save({}, tmp_path / "step.ckpt")  # the loaded model does not hang on its file
    assert torch.equal(back(TOKENS), model(TOKENS))


def test_other_torch_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="expected a checkpoint of retrolit's training, got another torch file"):
        load_model(tmp_path / "other.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"other\.ckpt: damaged, or not a checkpoint of retrolit's training"):
        load_model(tmp_path / "other.ckpt")


def test_a_path_that_is_no_model_says_what_it_may_be(make_gpt, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such model folder or checkpoint"):
        load_model(tmp_path / "nothing")
    save_model(make_gpt(), tmp_path / "run/model")
    with pytest.raises(FileNotFoundError, match=r"run: no model folder.*; did you mean .*run/model\?"):
        load_model(tmp_path / "run")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
    with pytest.raises(FileNotFoundError, match="it is Megatron's: retrolit convert from-megatron"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"not a model folder of retrolit's.*retrolit convert from-hf"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "expected format_version 1, got 2; update retrolit"),
        ({"model_type": "retro9"}, "expected model_type gpt or retro, got retro9; update"),
        ({"config": {"hidden_size": 8}}, "the config is not that of a gpt .*vocab_size"),
        ({"config": {"width": 8}}, "the config is not that of a gpt .*unknown width"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(make_gpt, tmp_path, change, message):
    save_model(make_gpt(), tmp_path / "model")
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 1}, r"model: not the tensors that were expected: 12 unexpected \(layers\.1\."),
        ({"num_layers": 3}, r"12 missing \(layers\.2\.attention\.output\.bias, "),
        ({"tied_embeddings": True}, r"1 unexpected \(output\.weight\)"),
        ({"ffn_hidden_size": 41}, r"mlp\.up\.weight: expected the shape \(41, 32\) from the config, got \(40, 32\)"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_the_config_are_named(make_gpt, tmp_path, change, message):
    save_model(make_gpt(), tmp_path / "model")
    file = tmp_path / "model/config.json"
    content = json.loads(file.read_text())
    content["config"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model")


def test_writing_refuses_tensors_that_do_not_fit_and_leaves_nothing(make_gpt, tmp_path):
    model = make_gpt()
    tensors = dict(model.state_dict())
    tensors.pop("final_norm.bias")
    with pytest.raises(ValueError, match=r"1 missing \(final_norm\.bias\)"):
        write_model_folder(tmp_path / "model", model.config, tensors.items())
    tensors["final_norm.bias"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"final_norm\.bias: expected the shape \(32,\)"):
        write_model_folder(tmp_path / "model", model.config, tensors.items())
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(make_gpt, tmp_path):
    with pytest.raises(ValueError, match=r"expected a tokenizer of at most 61 ids .* got one of 257"):
        save_model(make_gpt(), tmp_path / "model", ByteTokenizer())


def test_shapes_are_known_without_weights():
    config = GPTConfig(
        vocab_size=256000, hidden_size=8192, num_layers=48, num_attention_heads=64, max_position_embeddings=4096
    )
    assert tensor_shapes(config)["layers.47.attention.qkv.weight"] == (3 * 8192, 8192)
