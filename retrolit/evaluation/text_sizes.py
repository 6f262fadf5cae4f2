"""Bytes and words of the text that tokens stand for, so that losses can be told for any part of it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.tokens import Tokenizer, TokenStore


def text_sizes(store: TokenStore, tokenizer: Tokenizer) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Bytes of UTF-8 of every stream token (N,), and words between white space of every document (documents,).

    The bytes of a document are exact. Within it they are shared out by what each token is by itself, which is exact too
    but for a token that is a part of a character; the end of a document has none.
    """
    stream, starts = np.asarray(store.tokens), store.document_starts.tolist()
    ids, place = np.unique(stream, return_inverse=True)
    alone = np.array([_bytes_alone(tokenizer, i) for i in ids.tolist()], dtype=np.float64)
    num_bytes = alone[place]  # (N,)
    num_words = np.zeros(len(store), dtype=np.int64)
    for number, (start, end) in enumerate(pairwise(starts)):
        text = tokenizer.decode(stream[start:end].tolist())
        num_words[number] = len(text.split())
        total = num_bytes[start:end].sum()
        if total:
            num_bytes[start:end] *= len(text.encode()) / total
    return num_bytes, num_words


def _bytes_alone(tokenizer: Tokenizer, token: int) -> int:
    """Read behind a copy of itself, as some tokenizers drop a leading space; parts of characters decode to U+FFFD."""
    if token == tokenizer.eod_id:
        return 0
    once, twice = tokenizer.decode([token]), tokenizer.decode([token, token])
    return len(twice.encode()) - len(once.encode()) - 2 * (twice.count("\ufffd") - once.count("\ufffd"))
