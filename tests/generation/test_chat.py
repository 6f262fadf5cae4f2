"""A conversation: the model reads what was said so far, and forgets the oldest of it when there is no more room."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import replace

import pytest

from retrolit.generation import Chat, Generation, Generator, Retrieved, SamplingConfig
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer
from retrolit.tokens.chat_template import load_chat_template
from tests.generation.test_generator import successor_model

CONFIG = GPTConfig(vocab_size=257, hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=128)
SAMPLING = SamplingConfig(max_new_tokens=12, seed=5)


class Words:
    """Each character is a token, and so are a few longer texts."""

    texts = ("<end>", "\n\nUser:", " Yes", ", of course", *string.printable)
    vocab_size = len(texts)
    eod_id = 0
    fingerprint = "words"
    special_tokens = {"<end>": 0}  # noqa: RUF012

    def encode(self, text: str) -> list[int]:
        return [self.texts.index(found) for found in re.findall("|".join(map(re.escape, self.texts)), text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.texts[id] for id in ids)


def reply(chat: Chat, message: str) -> Generation:
    """The whole reply, of which the pieces are the text."""
    whole: list[Generation] = []

    def pieces():
        whole.append((yield from chat.say(message)))

    assert "".join(pieces()) == whole[0].text
    return whole[0]


@pytest.fixture
def generator() -> Generator:
    return Generator(GPT(CONFIG), ByteTokenizer())


def test_each_reply_continues_all_that_was_said(generator: Generator) -> None:
    chat = Chat(generator, sampling=SAMPLING)
    sampling = replace(SAMPLING, stop=["\n\nUser:"])
    prompt = "User: Hello?\n\nAssistant:"
    (first,) = generator.generate([list(prompt.encode())], sampling)
    assert reply(chat, "Hello?") == replace(first, text=first.text.strip())
    prompt += f" {first.text.strip()}\n\nUser: And then?\n\nAssistant:"
    (second,) = generator.generate([list(prompt.encode())], sampling)
    assert reply(chat, "And then?").tokens == second.tokens
    assert [message.content for message in chat.turns] == [
        "Hello?", first.text.strip(), "And then?", second.text.strip()
    ]  # fmt: skip


def test_a_reply_ends_before_the_users_next_turn() -> None:
    words = Words()
    colon, yes, of_course, user = (words.encode(text)[0] for text in (":", " Yes", ", of course", "\n\nUser:"))
    follows = {colon: yes, yes: of_course, of_course: user, user: yes}
    generator = Generator(successor_model(follows), words)
    assert reply(Chat(generator, sampling=replace(SAMPLING, temperature=0)), "Really?").text == "Yes, of course"
    shorter = replace(SAMPLING, temperature=0, stop=", of")
    assert reply(Chat(generator, sampling=shorter), "Really?").text == "Yes"


def test_a_reply_ends_with_the_templates_special_token_too() -> None:
    words = Words()
    colon, yes, of_course, end = (words.encode(text)[0] for text in (":", " Yes", ", of course", "\x0b"))
    words.special_tokens = {"\x0b": end}
    template = replace(load_chat_template("plain"), turn_end="\x0b", end="\x0b", special_tokens=["\x0b"])
    assert template.reply_ends == ([], ["\x0b"])
    generator = Generator(successor_model({colon: yes, yes: of_course, of_course: end, end: yes}), words)
    found = reply(Chat(generator, template, replace(SAMPLING, temperature=0)), "Really?")
    assert (found.text, found.tokens, found.finish_reason) == ("Yes, of course", [yes, of_course], "end")


@pytest.mark.filterwarnings("error")
def test_what_no_longer_fits_is_forgotten_oldest_first() -> None:
    """A model for 64 tokens: two turns of 23 tokens and one of 19 to be answered are one too many."""
    chat = Chat(Generator(successor_model({58: 33}), ByteTokenizer()), sampling=SamplingConfig(max_new_tokens=1))
    chat.sampling = replace(chat.sampling, temperature=0)
    for number in range(4):
        assert reply(chat, str(number)).text == "!"
    last = list(b"User: 3\n\nAssistant: !\n\nUser: 44\n\nAssistant:")
    assert chat.prompt("44") == last
    assert chat.prompt("4")[:8] == list(b"User: 3\n")


def test_contexts_are_cut_before_turns_are_forgotten(generator: Generator) -> None:
    found = [Retrieved(7, 0.5, "notes", "x" * 500)]
    chat = Chat(generator, sampling=SAMPLING, system="S", find_contexts=lambda message: found)
    prompt = bytes(chat.prompt("Hello?")).decode()
    assert len(prompt) == 128 - 12
    assert prompt.startswith("System: S\n\ntitle: notes, source: xxx")
    assert prompt.endswith("x\n\nUser: Hello?\n\nAssistant:")
    assert chat.contexts == found


def test_a_message_that_can_never_fit_is_refused_and_not_remembered(generator: Generator) -> None:
    chat = Chat(generator, sampling=SAMPLING)
    with pytest.raises(ValueError, match=r"prompt: expected a last question of at most 116 tokens, got more"):
        reply(chat, "x" * 200)
    assert chat.turns == []
