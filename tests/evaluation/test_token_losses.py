"""What is made of the losses of a split's tokens, against plain loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from retrolit.evaluation.token_losses import OVERLAPS, READINGS, TokenLosses

TOKENS, DOCUMENTS = 600, 20


def _losses(readings=READINGS, documents=DOCUMENTS) -> TokenLosses:
    generator = np.random.default_rng(0)
    nats = {name: generator.exponential(1.0, TOKENS).astype(np.float32) for name in readings}
    for losses in nats.values():
        losses[0] = np.nan
    document = np.sort(generator.integers(documents, size=TOKENS))
    overlap = generator.choice([0.0, 0.125, 0.2, 0.5, 0.7, 1.0, np.nan], size=TOKENS).astype(np.float32)
    return TokenLosses(
        nats,
        num_bytes=generator.integers(0, 6, TOKENS).astype(np.float64),
        document=document,
        num_words=generator.integers(1, 20, documents),
        overlap=overlap,
        run=generator.integers(-1, 12, TOKENS).astype(np.int16),
    )


def _bits(losses: TokenLosses, reading: str, keep) -> float:
    nats = num_bytes = 0.0
    for token in range(1, TOKENS):
        if keep(token):
            nats += float(losses.nats[reading][token])
            num_bytes += float(losses.num_bytes[token])
    return nats / math.log(2) / num_bytes


def test_the_measures_of_every_reading():
    losses = _losses()
    results = losses.results(num_resamples=50)
    assert (results["tokens"], results["documents"], results["words"]) == (599, 20, losses.num_words.sum())
    for name in READINGS:
        nats = float(losses.nats[name][1:].astype(np.float64).sum())
        assert results["readings"][name] == pytest.approx(
            {
                "loss": nats / 599,
                "perplexity": math.exp(nats / 599),
                "word_perplexity": math.exp(nats / losses.num_words.sum()),
                "bits_per_byte": _bits(losses, name, lambda token: True),
            }
        )
        low, high = results["bits_per_byte_interval"][name]
        assert low < results["bits_per_byte"][name] < high
    assert results["gain"]["none"] == results["bits_per_byte"]["none"] - results["bits_per_byte"]["retrieved"]
    assert json.loads(json.dumps(results, allow_nan=False))["readings"] == results["readings"]


def test_what_limited_batches_leave_unread_does_not_count():
    """The last document that is read is read in part: its words count in proportion."""
    whole = _losses()
    end = int(np.searchsorted(whole.document, 7)) + 10
    nats = {name: np.where(np.arange(TOKENS) < end, losses, np.nan) for name, losses in whole.nats.items()}
    limited = TokenLosses(nats, whole.num_bytes, whole.document, whole.num_words).results(num_resamples=50)
    share = 10 / (int((whole.document == 7).sum()) - 1)
    words = round(float(whole.num_words[:7].sum() + share * whole.num_words[7]))
    assert (limited["documents"], limited["tokens"], limited["words"]) == (8, end - 1, words)
    alone = whole.document < 8
    cut = {name: losses[alone] for name, losses in nats.items()}
    short = TokenLosses(cut, whole.num_bytes[alone], whole.document[alone], whole.num_words[:8])
    assert short.results(num_resamples=50) == limited


def test_the_curve_takes_chunks_up_to_an_overlap():
    """Cumulative, as RETRO's; a chunk without text is in none."""
    losses = _losses()
    curve = losses.results(num_resamples=0)["overlap_curve"]
    assert [point["at_most"] for point in curve] == [0.125, 0.25, 0.5, 1.0]
    for point, most in zip(curve, OVERLAPS, strict=True):
        kept = lambda token, most=most: losses.overlap[token] <= most  # noqa: E731
        assert point["tokens"] == sum(map(kept, range(1, TOKENS)))
        for name in READINGS:
            assert point["bits_per_byte"][name] == pytest.approx(_bits(losses, name, kept))
    assert curve[-1]["tokens"] < 599


def test_the_gain_is_split_by_what_stands_in_the_neighbors():
    losses = _losses()
    results = losses.results(num_resamples=0)
    groups = results["in_neighbors"]
    assert sum(group["tokens"] for group in groups.values()) == results["tokens"]
    assert sum(group["share_of_gain"]["none"] for group in groups.values()) == pytest.approx(1)
    assert sum(run["tokens"] for run in results["runs"].values()) == groups["in"]["tokens"]
    expected = _bits(losses, "none", lambda token: losses.run[token] == 0)
    assert groups["not in"]["bits_per_byte"]["none"] == pytest.approx(expected)
    expected = _bits(losses, "random", lambda token: 4 <= losses.run[token] <= 7)
    assert results["runs"]["4-7"]["bits_per_byte"]["random"] == pytest.approx(expected)


def test_a_gpt_alone_has_no_gain_and_one_document_no_interval():
    losses = _losses(readings=["gpt"], documents=1)
    losses.overlap = losses.run = None
    results = losses.results()
    assert list(results["readings"]) == ["gpt"]
    assert results["bits_per_byte_interval"] == {"gpt": None}
    assert not {"gain", "overlap_curve", "in_neighbors", "runs"} & set(results)


def test_where_nothing_is_left_there_is_no_number():
    losses = _losses()
    assert losses.overlap is not None
    losses.overlap[losses.overlap <= 0.125] = 0.2
    point = losses.results(num_resamples=10)["overlap_curve"][0]
    assert (point["tokens"], point["bits_per_byte"]["none"], point["gain"]["none"]) == (0, None, None)
    assert point["bits_per_byte_interval"]["none"] is None
    losses.nats = dict.fromkeys(READINGS, losses.nats["none"])
    assert losses.results(num_resamples=0)["overlap_curve"][1]["share_of_gain"]["none"] is None
