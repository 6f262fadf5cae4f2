"""A tuned Retro's decoder on its own: a GPT's folder, and Hugging Face's, alive in a process without retrolit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retrolit import load_model, save_model
from retrolit.checkpoint.decoder import extract_decoder
from retrolit.checkpoint.huggingface import from_huggingface, to_huggingface
from retrolit.generation import Chat, Generator, SamplingConfig
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.tokens import load_tokenizer
from retrolit.tokens.bpe import train_bpe
from retrolit.tokens.chat_template import load_chat_template
from retrolit.tokens.conversation import Context, Conversation, Message

LLAMA = GPTConfig(
    vocab_size=300, hidden_size=16, num_layers=2, num_attention_heads=2, max_position_embeddings=512,
    normalization="rmsnorm", activation="swiglu", bias=False,
)  # fmt: skip
TALK = [
    Message("user", "Where is the harbor?"), Message("assistant", "Behind the meadow."), Message("user", "And \"it\"?"),
]  # fmt: skip
CONTEXTS = [Context("Town", "A harbor."), Context("", "A {meadow}.")]

# What a process with transformers alone is asked: logits, the greedy continuation, and the prompt of a conversation.
CHILD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert "retrolit" not in sys.modules
folder, messages, documents = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=False, documents=documents or None
)
tokens = torch.tensor([prompt])
with torch.no_grad():
    logits = model(tokens).logits
    seen = torch.ones_like(tokens)
    text = model.generate(tokens, attention_mask=seen, max_new_tokens=20, do_sample=False, pad_token_id=0)
torch.save({"prompt": prompt, "logits": logits, "new": text[0, len(prompt):].tolist()}, sys.argv[4])
"""


def build(config: GPTConfig) -> Retro:
    model = Retro(RetroConfig(config, retro_layers=[1, 2], chunk_length=4)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """The folder of a Retro, as `fit` leaves it after tuning on conversations."""
    words = "the harbor behind a meadow copper falcon granite it is where And User Assistant System"
    tokenizer = train_bpe([words] * 20, 300)
    save_model(build(LLAMA), tmp_path / "tuned", tokenizer, load_chat_template("instructretro"))
    return tmp_path / "tuned"


def ask_transformers(folder: Path, conversation: Conversation, tmp_path: Path) -> dict:
    messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
    documents = [{"title": each.title, "text": each.text} for each in conversation.contexts]
    command = [sys.executable, "-c", CHILD, str(folder), json.dumps(messages), json.dumps(documents)]
    subprocess.run([*command, str(tmp_path / "answer.pt")], check=True, cwd=tmp_path)
    return torch.load(tmp_path / "answer.pt", weights_only=True)


@pytest.mark.parametrize("contexts", [(), CONTEXTS], ids=["plain", "contexts"])
def test_transformers_alone_says_what_the_retro_says_without_retrieval(tuned: Path, contexts, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    notes = to_huggingface(tuned, tmp_path / "hf", decoder_only=True)
    assert notes == ["LlamaForCausalLM, float32", "chat template instructretro"]
    conversation = Conversation(TALK, contexts)
    answer = ask_transformers(tmp_path / "hf", conversation, tmp_path)
    model, tokenizer = load_model(tuned), load_tokenizer(tuned)
    prompt = load_chat_template(tuned).prompt(conversation, tokenizer, 512)
    assert answer["prompt"] == prompt
    with torch.no_grad():
        assert torch.allclose(model(torch.tensor([prompt])), answer["logits"], atol=1e-4)
    ours = Generator(model, tokenizer).generate([prompt], SamplingConfig(max_new_tokens=20, temperature=0))[0]
    theirs = answer["new"]
    if tokenizer.eod_id in theirs:
        theirs = theirs[: theirs.index(tokenizer.eod_id)]
    assert ours.tokens == theirs


def test_the_decoder_as_a_folder_of_its_own(tuned: Path, tmp_path: Path) -> None:
    notes = extract_decoder(tuned, tmp_path / "gpt")
    assert len(notes) == 1
    assert notes[0].startswith("left out ")
    whole, alone = load_model(tuned), load_model(tmp_path / "gpt")
    assert isinstance(alone, GPT)
    tokens = torch.randint(300, (2, 9))
    assert torch.equal(whole(tokens), alone(tokens))
    assert load_chat_template(tmp_path / "gpt").settings == load_chat_template("instructretro").settings
    talk = Chat(Generator(alone, load_tokenizer(tmp_path / "gpt")), load_chat_template(tmp_path / "gpt"))
    assert "polite answers" in load_tokenizer(tuned).decode(talk.prompt("Hello?"))
    with pytest.raises(ValueError, match=r"gpt: expected a Retro, got a GPT, which is a decoder on its own already"):
        extract_decoder(tmp_path / "gpt", tmp_path / "again")
    save_model(whole, tmp_path / "bare")
    assert "no tokenizer" in extract_decoder(tmp_path / "bare", tmp_path / "bare-gpt")[1]


HUGGING_FACES = (
    "{% for message in messages %}{{ message['role'] ~ ': ' ~ message['content'] ~ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_chat_templates_come_in_from_hugging_faces_folders_and_go_out_again(tuned: Path, tmp_path: Path) -> None:
    to_huggingface(tuned, tmp_path / "hf", decoder_only=True)
    assert "with its chat template" in from_huggingface(tmp_path / "hf", tmp_path / "model")
    assert load_chat_template(tmp_path / "model").settings == load_chat_template("instructretro").settings
    (tmp_path / "hf/retrolit_chat_template.json").unlink()
    (tmp_path / "hf/chat_template.jinja").write_text(HUGGING_FACES)  # as a model of theirs has it
    from_huggingface(tmp_path / "hf", tmp_path / "theirs")
    tokenizer = load_tokenizer(tmp_path / "theirs")
    prompt = load_chat_template(tmp_path / "theirs").prompt(Conversation(TALK), tokenizer, 512)
    end = [tokenizer.eod_id]
    said = [tokenizer.encode(f"{message.role}: {message.content}") for message in TALK]
    assert tokenizer.decode(prompt) == tokenizer.decode([i for ids in said for i in [*ids, *end]]) + "assistant: "
    assert prompt.count(tokenizer.eod_id) == 3
    assert "chat template hf" in to_huggingface(tmp_path / "theirs", tmp_path / "again")
    assert (tmp_path / "again/chat_template.jinja").read_text() == HUGGING_FACES


def test_where_no_family_fits_the_switches_in_the_way_are_named(tmp_path: Path) -> None:
    """NVIDIA's decoders: Nemotron's norms and rotation, but a gated MLP."""
    decoder = GPTConfig(
        vocab_size=64, hidden_size=16, num_layers=2, num_attention_heads=2, max_position_embeddings=32,
        normalization="layernorm1p", activation="swiglu", rotary_percent=0.5, bias=False,
    )  # fmt: skip
    save_model(build(decoder), tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"the nearest, nemotron, has nothing for activation='swiglu'"):
        to_huggingface(tmp_path / "tuned", tmp_path / "hf", decoder_only=True)
