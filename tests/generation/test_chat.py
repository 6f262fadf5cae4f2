"""A conversation: the model reads what was said so far, and forgets the oldest of it when there is no more room."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from retrolit.generation import Chat, Generation, Generator, SamplingConfig
from retrolit.models import GPT, GPTConfig
from retrolit.tokens import ByteTokenizer
from tests.generation.test_generator import successor_model

CONFIG = GPTConfig(vocab_size=257, hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=128)
SAMPLING = SamplingConfig(max_new_tokens=12, seed=5)


class Words:
    """Each character is a token, and so are a few longer texts."""

    texts = ("<end>", "\n\nUser:", " Yes", ", of course", *string.printable)
    vocab_size = len(texts)
    eod_id = 0
    fingerprint = "words"

    def encode(self, text: str) -> list[int]:
        return [self.texts.index(found) for found in re.findall("|".join(map(re.escape, self.texts)), text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.texts[id] for id in ids)

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError


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
    chat = Chat(generator, SAMPLING)
    sampling = replace(SAMPLING, stop=["\n\nUser:"])
    prompt = "User: Hello?\n\nAssistant:"
    (first,) = generator.generate([prompt], sampling)
    assert reply(chat, "Hello?") == first
    (second,) = generator.generate([f"{prompt}{first.text}\n\nUser: And then?\n\nAssistant:"], sampling)
    assert reply(chat, "And then?") == second
    assert chat.turns == [("Hello?", first.text), ("And then?", second.text)]


def test_a_reply_ends_before_the_users_next_turn() -> None:
    words = Words()
    colon, yes, of_course, user = (words.encode(text)[0] for text in (":", " Yes", ", of course", "\n\nUser:"))
    follows = {colon: yes, yes: of_course, of_course: user, user: yes}
    generator = Generator(successor_model(follows), words)
    assert reply(Chat(generator, replace(SAMPLING, temperature=0)), "Really?").text == " Yes, of course"
    shorter = replace(SAMPLING, temperature=0, stop=", of")
    assert reply(Chat(generator, shorter), "Really?").text == " Yes"


@pytest.mark.filterwarnings("error")
def test_what_no_longer_fits_is_forgotten_oldest_first() -> None:
    """A model for 64 tokens: two turns of 22 tokens, a message of 19 and a reply of 1 just fit."""
    chat = Chat(Generator(successor_model({58: 33}), ByteTokenizer()), SamplingConfig(max_new_tokens=1, temperature=0))
    for number in range(6):
        assert reply(chat, str(number)).text == "!"
        assert chat.turns == [(str(n), "!") for n in range(max(0, number - 2), number + 1)]
    reply(chat, "77")  # one token too many for two turns
    assert [message for message, _ in chat.turns] == ["5", "77"]


def test_a_message_that_can_never_fit_is_refused_and_not_remembered() -> None:
    generator = Generator(GPT(replace(CONFIG, position_embedding="learned")), ByteTokenizer())
    chat = Chat(generator, SAMPLING)
    with pytest.raises(ValueError, match=r"at most 128 tokens together with the new ones"):
        reply(chat, "x" * 200)
    assert chat.turns == []
