"""From nats to what is quoted: perplexity of a token, bits of a byte, perplexity of a word.

Only bits per byte (and word perplexity) can be compared between models of different tokenizers: a model with longer
tokens has fewer, and harder, predictions to make.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

Nats = TypeVar("Nats", float, np.ndarray)

LARGEST_EXPONENT = 700.0
"""exp of more is no float64; a model this bad is infinitely bad in print too."""


def perplexity(nats: float, count: float) -> float:
    """exp(nats / count): of tokens, or with the same nats of the words they make."""
    return math.exp(min(nats / count, LARGEST_EXPONENT))


def bits_per_byte(nats: Nats, num_bytes: Nats) -> Nats:
    """nats / ln 2 / bytes of UTF-8 text."""
    return nats / math.log(2) / num_bytes
