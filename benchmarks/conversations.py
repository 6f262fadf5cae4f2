"""Rendering and masking short conversations, against the `tokenizers` library alone on the same text and cores.

    python -m benchmarks.conversations CONVERSATIONS.json TOKENIZER [--rounds 5] [--template instructretro-tuning]

Two processes, as `retrolit prepare` has them on two cores, each with half of the conversations. The library's share is
one call of `encode_batch_fast` with each whole conversation as one text; what it gives are objects that hold the ids.
Ours is ids and mask of every conversation, then the block of arrays that `prepare` writes. Goal: 20,000 short
conversations a second on two cores, or at least 0.85 of the library's speed. Short are those of at most 400 characters.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
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
from retrolit.tokens.prepare_conversations import Rendering

SHORT = 400
NUMBER = 10_000
PROCESSES = 2

ways: dict[str, Callable[[], Any]] = {}
"""What a process can be asked to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conversations")
    parser.add_argument("tokenizer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--template", default="instructretro-tuning")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    # One process each, so that none takes both halves.
    halves = [
        ProcessPoolExecutor(1, spawn, load, (options.conversations, options.tokenizer, options.template, half))
        for half in range(PROCESSES)
    ]
    [told, _] = [half.submit(names).result() for half in halves]
    taken: dict[str, list[float]] = {name: [] for name in told[1]}
    for _ in range(options.rounds):
        for name, seconds in taken.items():
            seconds.append(max(one.result() for one in [half.submit(run, name) for half in halves]))
    print(describe("tokenizers"))
    print(f"{NUMBER:,} conversations of {told[0]:.0f} characters, template {options.template}; "
          f"medians of {options.rounds} interleaved rounds")  # fmt: skip
    for name, seconds in taken.items():
        ratio = statistics.median(base / mine for base, mine in zip(taken[told[1][0]], seconds, strict=True))
        print(f"{name:24} {NUMBER / statistics.median(seconds):>10,.0f} conversations/s   ({ratio:.2f})")


def load(path: str, tokenizer_path: str, template_name: str, half: int) -> None:
    """Makes a process ready for its half of the conversations."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    config = ConversationCorpusConfig(path, on_error="skip")
    read = conversations(open_conversations(config), config, Counter())
    short = [each for each in read if sum(len(message.content) for message in each.messages) <= SHORT]
    # Each with a number of its own: ours encodes equal texts only once, which must not count here.
    mine = [numbered(short[number % len(short)], number) for number in range(half, NUMBER, PROCESSES)]
    template, tokenizer = load_chat_template(template_name), load_tokenizer(tokenizer_path)
    assert isinstance(tokenizer, BPETokenizer)
    alone = tokenizers.Tokenizer.from_str(tokenizer._content)
    whole = ["".join(text for text, _ in template.pieces(each, "") if type(text) is not Special) for each in mine]
    rendering = Rendering(template, tokenizer, 4097, "last", 1, 0, 0)
    ways["encode_batch_fast"] = lambda: alone.encode_batch_fast(whole)
    ways["the same, ids taken out"] = lambda: [one.ids for one in alone.encode_batch_fast(whole)]
    ways["ids and mask"] = lambda: template.render_all(mine, tokenizer, 4097)
    ways["the block on disk"] = lambda: rendering(mine)
    ways["characters"] = lambda: sum(map(len, whole)) / len(whole)


def names() -> tuple[float, list[str]]:
    """Characters of a conversation on average, and the ways to measure."""
    return ways["characters"](), [name for name in ways if name != "characters"]


def run(name: str) -> float:
    """Seconds that this process takes for its half."""
    begin = time.perf_counter()
    ways[name]()
    return time.perf_counter() - begin


def numbered(conversation: Conversation, number: int) -> Conversation:
    """The conversation with a number in front of every message."""
    messages = [replace(message, content=f"{number}. {message.content}") for message in conversation.messages]
    return replace(conversation, messages=messages)


if __name__ == "__main__":
    main()
