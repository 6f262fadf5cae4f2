"""Reading conversations: every published form, and what is wrong with a record."""

from __future__ import annotations

import gc
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retrolit.tokens import ByteTokenizer
from retrolit.tokens.chat_template import load_chat_template
from retrolit.tokens.config import TokenizerConfig
from retrolit.tokens.conversation import Context, Conversation, Message
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.tokens.conversation_formats import FORMATS, BadConversation, conversations_of
from retrolit.tokens.conversation_readers import conversations, open_conversations
from retrolit.tokens.prepare_conversations import Rendering

SAMPLES = Path(__file__).parents[2] / "data/samples/conversations"


def read(source: Path, **options: Any) -> tuple[list[Conversation], Counter[str]]:
    config, skipped = ConversationCorpusConfig(str(source), **options), Counter[str]()
    return list(conversations(open_conversations(config), config, skipped)), skipped


def texts(conversation: Conversation) -> list[str]:
    return [f"{message.role}: {message.content}" for message in conversation.messages]


def test_there_is_a_sample_of_every_format() -> None:
    assert sorted(path.name.split(".")[0] for path in SAMPLES.iterdir()) == sorted(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_seen_from_its_fields(name: str) -> None:
    [path] = SAMPLES.glob(f"{name}.*")
    seen, _ = read(path)
    assert seen == read(path, format=name)[0]
    assert len(seen) >= 2
    for conversation in seen:
        assert conversation.source.startswith(f"{path.name}:")
        assert [message.role for message in conversation.turns][:2] == ["user", "assistant"]
        assert conversation.messages[-1].role == "assistant"


def test_contexts_and_dialogues_of_question_answering() -> None:
    record = {"question": "User: Hi\n\nAssistant: Hello\n\nUser: Where?\n\nAssistant:", "answers": ["Here", "There"],
              "ctxs": [{"title": "T", "text": "t"}, {"title": "U", "text": "u"}]}  # fmt: skip
    [(messages, contexts)] = conversations_of(record)
    assert [message.content for message in messages] == ["Hi", "Hello", "Where?", "Here"]
    assert contexts == [Context("T", "t"), Context("U", "u")]
    record = {"question": "Which?", "answer": {"text": " b "}, "sub-paragraphs": ["Title", "Text"],
              "qa_type": "multi_choice_qa", "multichoice_options": ["a", "b"]}  # fmt: skip
    [(messages, contexts)] = conversations_of(record)
    assert messages[0].content == "Which?\nChoose one based on the following options: (A) a (B) b"
    assert messages[1].content == "b"
    assert contexts == [Context("Title", "Text")]


def test_a_tree_gives_every_way_to_a_last_reply() -> None:
    def message(text: str, role: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"text": text, "role": role, "replies": list(replies), **more}

    tree = message("q", "prompter", message("a", "assistant", message("q2", "prompter", message("a2", "assistant"))),
                   message("b", "assistant", message("q3", "prompter")),
                   message("c", "assistant", deleted=True))  # fmt: skip
    for record in (tree, {"message_tree_id": "x", "prompt": tree}):
        ways = [[turn.content for turn in turns] for turns, _ in conversations_of(record)]
        assert ways == [["q", "a", "q2", "a2"], ["q", "b"]]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ([], "not an object"),
        ({"text": "x"}, "unknown format"),
        ({"messages": []}, "missing field"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no reply"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role"),
        ({"messages": ["x"]}, "not an object"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not text"),
        ({"instruction": "x", "output": " "}, "empty turn"),
        ({"instruction": "x", "response": None}, "not text"),
        ({"question": "x", "answers": []}, "missing field"),
        ({"instruction": "x", "instances": [{"input": "y"}]}, "missing field"),
    ],
)
def test_bad_records_have_a_reason(record: Any, kind: str) -> None:
    with pytest.raises(BadConversation) as caught:
        conversations_of(record)
    assert caught.value.kind == kind
    assert caught.value.detail.startswith("expected")


def test_bad_records_stop_or_are_counted(tmp_path: Path) -> None:
    good = {"instruction": "a", "output": "b"}
    turns = {
        "conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}]
    }
    lines = [json.dumps(good), "{", json.dumps(turns), '{"instruction": "a", "output": "\\ud800"}', json.dumps(good)]
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(ValueError, match=r"x\.jsonl\.gz:2: broken JSON: .*set on_error: skip"):
        read(path)
    found, skipped = read(path, on_error="skip")
    assert [each.source for each in found] == ["x.jsonl.gz:1", "x.jsonl.gz:5"]
    assert skipped == {"broken JSON": 1, "turns out of order": 1, "lone surrogate": 1}


def test_an_array_is_read_element_by_element(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    good = json.dumps({"instruction": "a", "output": "b"}, indent=1)
    path.write_text(f"[{good},\n{good}]")
    assert [each.source for each in read(path)[0]] == ["x.json:1", "x.json:5"]
    for broken, line in ((f"[{good},\n{{]", 5), (f"[{good}\n{good}]", 5), (f"[{good}", 4)):
        path.write_text(broken)
        with pytest.raises(ValueError, match=rf"x\.json:{line}: broken JSON"):
            read(path)
    path.write_bytes(b"[\n\xff]")
    with pytest.raises(ValueError, match=r"x\.json:2: wrong encoding"):
        read(path)
    path.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": "b"}\n')
    assert [each.source for each in read(path)[0]] == ["x.json:1", "x.json:2"]


def test_real_files(shared: Path) -> None:
    folder = shared / "data/instruct"
    numbers = {"alpaca-en-demo/alpaca_en_demo.json.gz": 999, "openassistant/en_100_tree.jsonl.gz": 546,
               "self-instruct/seed_tasks.jsonl.gz": 175}  # fmt: skip
    for name, number in numbers.items():
        found, skipped = read(folder / name)
        assert (len(found), skipped) == (number, Counter())
    trees, messages = (read(folder / f"openassistant/en_100_{kind}.jsonl.gz")[0] for kind in ("tree", "message"))
    assert [texts(each) for each in trees] == [texts(each) for each in messages]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ask"}, "on_error: expected stop or skip"),
        ({"split": "dev"}, "split: expected one of train, validation, test"),
        ({"weight": 0}, "weight: expected more than 0"),
    ],
)
def test_impossible_corpora_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConversationCorpusConfig("x.jsonl", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": TokenizerConfig("bpe")}, "tokenizer: expected type bytes, or file"),
        ({"train_on": "first"}, "train_on: expected last or all"),
        ({"max_length": 1}, "max_length: expected at least 2"),
        ({"corpora": {}}, "ConversationsConfig.corpora: expected at least one corpus"),
        ({"splits": {"train": 0.5}}, "ConversationsConfig.splits: expected shares that add up to 1"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"corpora": {"x": ConversationCorpusConfig("x.jsonl")}, "max_length": 9,
                                "tokenizer": TokenizerConfig("bytes")}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ConversationsConfig(**settings | options)


def test_the_collector_of_garbage_is_left_as_it_was(tmp_path: Path) -> None:
    """It rests while a block is rendered, also where that ends in an error."""
    talk = Conversation([Message("user", "Hi"), Message("assistant", "Hello")])
    rendering = Rendering(load_chat_template("plain"), ByteTokenizer(), 100, "last", 1, 0, 0)
    assert gc.isenabled()
    rendering([talk])
    assert gc.isenabled()
    with pytest.raises(ValueError, match="expected a conversation that ends with the assistant's reply"):
        rendering([Conversation([Message("user", "Hi")])])
    assert gc.isenabled()
    gc.disable()
    try:
        rendering([talk])
        assert not gc.isenabled()
    finally:
        gc.enable()
