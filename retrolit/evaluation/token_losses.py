"""The loss of every token of a split, and what is made of it: measures, overlap curve, runs, confidence intervals.

Readings: a token is predicted several times, and what differs is what the model reads.

    retrieved   the neighbors that were retrieved
    none        no neighbors at all
    random      neighbors of random chunks
    gpt         a GPT: the model itself where it is one, or the one that a Retro was fitted to

The gain of a reading is what it needs more than `retrieved` does, in bits per byte.

Legend: N tokens of the split, D documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retrolit.evaluation.bootstrap import interval, resampled_sums
from retrolit.evaluation.measures import bits_per_byte, perplexity
from retrolit.evaluation.overlap import NOTHING_TO_READ

if TYPE_CHECKING:
    from numpy.typing import NDArray

READINGS = ("retrieved", "none", "random", "gpt")

OVERLAPS = (0.125, 0.25, 0.5, 1.0)
"""The curve's chunks are those that overlap with their neighbors by at most so much."""

LONGEST = 2**15 - 1

IN_NEIGHBORS = {"in": (1, LONGEST), "not in": (0, 0), "nothing to read": (NOTHING_TO_READ, NOTHING_TO_READ)}
"""Tokens that occur in a neighbor read for them, that do not, and that had none: the runs (from, to) of each group."""

RUNS = {"1": (1, 1), "2-3": (2, 3), "4-7": (4, 7), "8 and more": (8, LONGEST)}
"""Those that occur, by the length of their run."""


@dataclass
class TokenLosses:
    """All tokens of a split, its corpora one after another."""

    nats: dict[str, NDArray[np.float32]]
    """Reading -> the loss of each token (N,); NaN where nothing predicts it, which is so for all readings alike."""

    num_bytes: NDArray[np.float64]
    """(N,): bytes of text that each token stands for."""

    document: NDArray[np.int64]
    """(N,): the number of the document it is part of, from 0, in order."""

    num_words: NDArray[np.int64]
    """(D,): words of each document."""

    overlap: NDArray[np.float32] | None = None
    """(N,): overlap of the token's chunk with its neighbors; NaN where the chunk has no text."""

    run: NDArray[np.int16] | None = None
    """(N,): how many tokens that end with this one stand together in a neighbor read for it."""

    def __post_init__(self) -> None:
        first = next(iter(self.nats.values()))
        self.counted: NDArray[np.bool_] = ~np.isnan(first)
        """(N,): which tokens are predicted."""
        predicted = np.bincount(self.document[self.counted], minlength=len(self.num_words))
        self.read: NDArray[np.bool_] = predicted > 0
        """(D,): which documents are read; fewer than all where batches were limited."""
        others = np.bincount(self.document, minlength=len(self.num_words)) - 1  # nothing may predict the first
        self.words = round(float((self.num_words * np.minimum(predicted / np.maximum(others, 1), 1)).sum()))
        """Words that are predicted; of a document that is read in part, in proportion."""

    def results(self, num_resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Everything, in JSON's types; see docs/evaluation.md. Intervals are None where they mean nothing."""
        parts = {"whole": self.counted}
        if self.overlap is not None:
            parts |= {f"overlap {most}": self.counted & (self.overlap <= most) for most in OVERLAPS}
        if self.run is not None:
            groups = IN_NEIGHBORS | RUNS
            parts |= {
                name: self.counted & (self.run >= low) & (self.run <= high) for name, (low, high) in groups.items()
            }
        measured = self._measure(parts, num_resamples, seed)
        whole, words = measured["whole"], self.words
        results: dict[str, Any] = {"documents": int(self.read.sum()), "words": words, **whole, "readings": {}}
        for name, losses in self.nats.items():
            nats = float(losses[self.counted].sum(dtype=np.float64))
            results["readings"][name] = {
                "loss": nats / whole["tokens"],
                "perplexity": perplexity(nats, whole["tokens"]),
                "bits_per_byte": whole["bits_per_byte"][name],
                "word_perplexity": perplexity(nats, max(1, words)),
            }
        if self.overlap is not None:
            results["overlap_curve"] = [{"at_most": most, **measured[f"overlap {most}"]} for most in OVERLAPS]
        if self.run is not None:
            results["in_neighbors"] = {name: measured[name] for name in IN_NEIGHBORS}
            results["runs"] = {name: measured[name] for name in RUNS}
        return results

    def _measure(self, parts: dict[str, NDArray[np.bool_]], num_resamples: int, seed: int) -> dict[str, dict[str, Any]]:
        """Of each part (N,) of the tokens: counts, bits per byte of every reading, gains and their shares."""
        columns = [
            np.bincount(self.document[chosen], values[chosen].astype(np.float64), minlength=len(self.num_words))
            for chosen in parts.values()
            for values in (self.num_bytes, *self.nats.values())
        ]
        sums = np.stack(columns, axis=1).astype(np.float64)[self.read]  # (read of D, parts x (1 + readings))
        if len(sums) < 2:
            num_resamples = 0  # one document says nothing about others
        shape = (-1, len(parts), 1 + len(self.nats))
        totals = sums.sum(axis=0).reshape(shape)[0]
        resamples = resampled_sums(sums, num_resamples, seed).reshape(shape)
        measured = {}
        for number, (name, chosen) in enumerate(parts.items()):
            bits, spread = self._bits(totals[number]), self._bits(resamples[:, number])
            entry: dict[str, Any] = {"tokens": int(chosen.sum()), "bytes": round(float(totals[number, 0]), 3)}
            entry["bits_per_byte"] = {reading: _number(value) for reading, value in bits.items()}
            entry["bits_per_byte_interval"] = {reading: interval(values) for reading, values in spread.items()}
            if "retrieved" in self.nats:
                others = [reading for reading in self.nats if reading != "retrieved"]
                entry["gain"] = {other: _number(bits[other] - bits["retrieved"]) for other in others}
                entry["gain_interval"] = {other: interval(spread[other] - spread["retrieved"]) for other in others}
                entry["share_of_gain"] = {}
                for other in others:
                    saved = self._saved(totals[0], other)  # of nothing, there are no shares
                    entry["share_of_gain"][other] = float(self._saved(totals[number], other) / saved) if saved else None
            measured[name] = entry
        return measured

    def _bits(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Bits per byte of each reading, from bytes and nats (..., 1 + readings)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: bits_per_byte(sums[..., 1 + i], sums[..., 0]) for i, name in enumerate(self.nats)}

    def _saved(self, sums: NDArray[np.float64], other: str) -> np.float64:
        """Nats that retrieved neighbors save over this reading."""
        readings = list(self.nats)
        return sums[1 + readings.index(other)] - sums[1 + readings.index("retrieved")]


def _number(value: NDArray[np.float64] | np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
