"""A bounded random sample of documents, for training a tokenizer."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable


def sample_texts(texts: Iterable[str], limit: int) -> list[str]:
    """Texts drawn at random, about `limit` characters of them, equal texts once; all of them when they are fewer.

    A text's luck is a hash of itself, so that the sample depends neither on order nor on chance; memory is bounded by
    `limit` and the longest text.
    """
    kept: list[tuple[int, str]] = []  # a heap with the unluckiest first
    inside: set[int] = set()
    characters = 0
    for text in texts:
        luck = -int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"sample").digest(), "little")
        if luck in inside or (characters >= limit and kept and luck < kept[0][0]):
            continue
        heapq.heappush(kept, (luck, text))
        inside.add(luck)
        characters += len(text)
        while characters - len(kept[0][1]) >= limit:
            unlucky, dropped = heapq.heappop(kept)
            inside.remove(unlucky)
            characters -= len(dropped)
    return [text for _, text in sorted(kept)]
