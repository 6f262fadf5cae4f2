"""Rendering and masking short conversations, against the `tokenizers` library alone on the same text and cores.

    python -m benchmarks.conversations CONVERSATIONS.json TOKENIZER [--rounds 5] [--template instructretro-tuning]

Ours makes ids and mask of every conversation. The library's share is one call of `encode_batch_fast` with each whole
conversation as one text. Goal: 20,000 short conversations a second on two cores, or at least 0.85 of the library's
speed. Short are those of at most 400 characters.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tokenizers

from benchmarks.machine import describe
from retrolit.tokens import load_tokenizer
from retrolit.tokens.bpe import BPETokenizer
from retrolit.tokens.chat_template import Special, load_chat_template
from retrolit.tokens.conversation import Conversation
from retrolit.tokens.conversation_config import ConversationCorpusConfig
from retrolit.tokens.conversation_readers import conversations, open_conversations

SHORT = 400
NUMBER = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conversations")
    parser.add_argument("tokenizer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--template", default="instructretro-tuning")
    options = parser.parse_args()
    config = ConversationCorpusConfig(options.conversations, on_error="skip")
    read = conversations(open_conversations(config), config, Counter())
    short = [each for each in read if sum(len(message.content) for message in each.messages) <= SHORT]
    # Each with a number of its own: ours encodes equal texts only once, which must not count here.
    short = [numbered(short[number % len(short)], number) for number in range(NUMBER)]
    template, tokenizer = load_chat_template(options.template), load_tokenizer(options.tokenizer)
    assert isinstance(tokenizer, BPETokenizer)
    alone = tokenizers.Tokenizer.from_str(tokenizer._content)
    whole = ["".join(text for text, _ in template.pieces(each, "") if type(text) is not Special) for each in short]
    ways: dict[str, Callable[[], Any]] = {
        "encode_batch_fast": lambda: alone.encode_batch_fast(whole),
        "the same, ids taken out": lambda: [one.ids for one in alone.encode_batch_fast(whole)],
        "ids and mask": lambda: template.render_all(short, tokenizer, 4097),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begin)
    print(describe("tokenizers"))
    characters = sum(map(len, whole)) / len(whole)
    print(f"{len(short):,} conversations of {characters:.0f} characters, template {template.name}; "
          f"medians of {options.rounds} interleaved rounds")  # fmt: skip
    for name, seconds in taken.items():
        ratio = statistics.median(base / mine for base, mine in zip(taken["encode_batch_fast"], seconds, strict=True))
        print(f"{name:24} {len(short) / statistics.median(seconds):>10,.0f} conversations/s   ({ratio:.2f})")


def numbered(conversation: Conversation, number: int) -> Conversation:
    """The conversation with a number in front of every message."""
    messages = [replace(message, content=f"{number}. {message.content}") for message in conversation.messages]
    return replace(conversation, messages=messages)


if __name__ == "__main__":
    main()
