"""The verb `convert`: what each sub-verb prints, and that its mistakes end in a line."""

from __future__ import annotations

import json

import pytest
import torch

from retrolit.checkpoint import load_model, save_model
from retrolit.cli.main import main
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer


@pytest.fixture
def model_folder(tmp_path):
    config = GPTConfig(
        vocab_size=257, hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=32,
        normalization="rmsnorm", activation="swiglu", bias=False,
    )  # fmt: skip
    save_model(GPT(config), tmp_path / "model", ByteTokenizer())
    return tmp_path / "model"


def test_out_to_hugging_face_and_in_again(model_folder, tmp_path, capsys):
    assert main(["convert", "to-hf", str(model_folder), str(tmp_path / "hf")]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM, float32" in said
    assert f"written to {tmp_path / 'hf'}" in said
    assert "from_pretrained" in said
    assert main(["convert", "from-hf", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    said = capsys.readouterr().out
    assert "llama (12 tensors)" in said
    assert f"{load_model(model_folder).num_parameters():,} parameters" in said
    assert f"next: retrolit generate {tmp_path / 'back'}" in said
    _check_equal(model_folder, tmp_path / "back")


def test_out_to_megatron_and_in_again(model_folder, tmp_path, capsys):
    assert main(["convert", "to-megatron", str(model_folder), str(tmp_path / "m"), "--tensor_parallel=2"]) == 0
    said = capsys.readouterr().out
    assert "2 tensor-parallel rank(s)" in said
    assert "vocabulary padded from 257 to 512 rows" in said
    arguments = ["convert", "from-megatron", str(tmp_path / "m"), str(tmp_path / "back")]
    assert main([*arguments, "--tokenizer", str(model_folder)]) == 0
    said = capsys.readouterr().out
    assert "vocabulary of 257 (the tokenizer's); 255 padding rows cut off" in said
    assert "no tokenizer" not in said
    assert (tmp_path / "back/retrolit_tokenizer.json").is_file()
    _check_equal(model_folder, tmp_path / "back")


def test_a_missing_tokenizer_is_said(model_folder, tmp_path, capsys):
    main(["convert", "to-megatron", str(model_folder), str(tmp_path / "m")])
    assert main(["convert", "from-megatron", str(tmp_path / "m"), str(tmp_path / "back")]) == 0
    assert "no tokenizer: Megatron's checkpoints have none" in capsys.readouterr().out


def test_a_destination_that_exists_is_left_alone(model_folder, tmp_path, capsys):
    (tmp_path / "hf").mkdir()
    assert main(["convert", "to-hf", str(model_folder), str(tmp_path / "hf")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "exists already" in said
    assert not list((tmp_path / "hf").iterdir())


def test_a_source_that_cannot_be_converted_ends_in_a_line(tmp_path, capsys):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text(json.dumps({"model_type": "mamba"}))
    torch.save({}, tmp_path / "hf/model.safetensors")
    assert main(["convert", "from-hf", str(tmp_path / "hf"), str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("retrolit convert: ")
    assert said.count("\n") == 1


def _check_equal(folder, other):
    ours, theirs = load_model(folder), load_model(other)
    assert ours.config == theirs.config
    assert all(torch.equal(theirs.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
