"""Conversations that share a passage stay together, whoever joins them and in whatever order they come."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from retrolit.tokens import shared_passages
from retrolit.tokens.config import TokenizerConfig
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.tokens.prepare_conversations import ConversationStore, prepare_conversations
from retrolit.tokens.shared_passages import group_hashes, passage_marks


def words(draw: random.Random, number: int) -> str:
    return " ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(number))


def groups_of(texts: list[str], hashes: np.ndarray | None = None) -> list[int]:
    own = np.arange(len(texts), dtype=np.uint64) if hashes is None else hashes
    return group_hashes(*passage_marks(texts), own).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_twenty_words_in_a_row_always_join(seed: int) -> None:
    draw = random.Random(seed)
    passage = words(draw, 20)
    texts = [f"{words(draw, draw.randint(0, 40))} {passage} {words(draw, draw.randint(0, 40))}" for _ in range(6)]
    texts.insert(3, words(draw, 80))
    texts.insert(4, passage[: passage.index(" ", 60)])  # too little of it
    assert groups_of(texts) == [0, 0, 0, 3, 4, 0, 0, 0]
    assert groups_of([passage.upper().replace(" ", ", "), passage]) == [0, 0]


def test_twelve_words_join_nobody() -> None:
    draw = random.Random(1)
    twelve = words(draw, 12)
    assert groups_of([f"{words(draw, 9)} {twelve} {words(draw, 9)}" for _ in range(20)]) == list(range(20))


def test_what_very_many_texts_share_is_their_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_passages, "COMMON", 10)
    draw = random.Random(2)
    wording, passage = words(draw, 30), words(draw, 30)
    texts = [f"{wording} {passage if number in (2, 7) else words(draw, 30)}" for number in range(11)]
    assert groups_of(texts) == [0, 1, 2, 3, 4, 5, 6, 2, 8, 9, 10]
    assert groups_of(texts[:10]) == [0] * 10


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_of_a_slow_loop_in_any_order(seed: int) -> None:
    """Long chains: text i shares one passage with a text and another one with the next."""
    draw = random.Random(seed)
    passages = [words(draw, 25) for _ in range(60)]
    held = [draw.sample(range(60), draw.randint(1, 2)) for _ in range(50)]
    texts = [" ".join(passages[number] for number in numbers) for numbers in held]
    hashes = np.random.default_rng(seed).integers(0, 40, 50).astype(np.uint64)  # some twice
    joined = [
        (one, other)
        for one in range(50)
        for other in range(50)
        if set(held[one]) & set(held[other]) or hashes[one] == hashes[other]
    ]
    expected = hashes.tolist()
    for _ in texts:
        for one, other in joined:
            expected[one] = min(expected[one], expected[other])
    assert groups_of(texts, hashes) == expected
    assert len(set(expected)) > 1
    order = list(range(50))
    draw.shuffle(order)
    assert groups_of([texts[i] for i in order], hashes[order]) == [expected[i] for i in order]


def test_no_text_at_all() -> None:
    assert groups_of([]) == []
    assert groups_of(["", "a few words"]) == [0, 1]


def test_one_example_in_many_prompts_is_in_one_split(tmp_path: Path) -> None:
    """Forty examples, each in six wordings: split by question they leak, split by passages they do not."""
    draw = random.Random(3)
    wordings = [
        "Read this. {} What is it about?",
        "{}\n\nIs it true?",
        "Summarize: {}",
        "{} Why?",
        "Who? {}",
        "{} Go on.",
    ]
    records = [
        {"prompt": wording.format(example), "completion": f"example{number}"}
        for number, example in enumerate(words(draw, 40) for _ in range(40))
        for wording in wordings
    ]
    draw.shuffle(records)
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, records)))

    def splits_of(split_by: str) -> dict[str, set[str]]:
        corpus = ConversationCorpusConfig(str(tmp_path / "prompts.jsonl"), split_by=split_by)  # pyright: ignore[reportArgumentType]
        splits = {"train": 0.6, "validation": 0.2, "test": 0.2}
        config = ConversationsConfig(
            {"prompts": corpus}, TokenizerConfig("bytes"), 512, template="plain", splits=splits
        )
        prepared = prepare_conversations(config, tmp_path / split_by, processes=1)
        assert prepared is not None
        sizes = prepared.manifests["prompts"].sizes
        assert sizes.get("groups") == (40 if split_by == "passages" else None)
        found = {}
        for split, prefixes in prepared.stores.items():
            store = ConversationStore(prefixes["prompts"])
            assert len(store) == sizes[split]["documents"] > 5
            replies = [store[number][store.mask_of(number) == 1][:-1] for number in range(len(store))]
            found[split] = {bytes(reply.tolist()).decode() for reply in replies}
        return found

    leaking, kept = splits_of("question"), splits_of("passages")
    assert leaking["train"] & leaking["test"]
    assert not kept["train"] & kept["test"]
    assert not kept["train"] & kept["validation"]
    assert not kept["validation"] & kept["test"]
    assert len(set().union(*kept.values())) == 40


def test_other_words_for_it_are_refused() -> None:
    with pytest.raises(ValueError, match=r"split_by: expected question or passages, got 'topic'"):
        ConversationCorpusConfig("x.jsonl", split_by="topic")  # pyright: ignore[reportArgumentType]
