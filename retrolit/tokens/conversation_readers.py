"""Reading conversations out of files: .jsonl, .json and .parquet, each also compressed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, BinaryIO

from retrolit.tokens.compression import DamagedFileError, decompressed, strip_compression
from retrolit.tokens.conversation import Conversation
from retrolit.tokens.conversation_config import ConversationCorpusConfig
from retrolit.tokens.conversation_formats import BadConversation, conversations_of
from retrolit.tokens.corpus import Corpus, FileCorpus, leave_out
from retrolit.tokens.readers import JSON_LINES, PARQUET, BadRecord, json_lines, table_rows, wrong_encoding

JSON = (".json",)


def open_conversations(config: ConversationCorpusConfig) -> Corpus[Conversation]:
    """What `config.source` names. Raises FileNotFoundError or ValueError when there is none."""
    if config.source.startswith("hf:"):
        from retrolit.tokens.hf_datasets import HuggingFaceDataset

        return HuggingFaceDataset(config.source, lambda row, source: _of_record(row, source, config))
    endings = (*JSON_LINES, *JSON, *PARQUET)
    return FileCorpus(config.source, lambda file, name: read_conversations(file, name, config), endings)


def conversations(
    corpus: Corpus[Conversation], config: ConversationCorpusConfig, skipped: Counter[str]
) -> Iterator[Conversation]:
    """The conversations of a corpus. Bad records are counted in `skipped` under `on_error: skip`; otherwise one raises
    ValueError."""
    for record in corpus.read():
        if isinstance(record, BadRecord):
            leave_out(record, config.on_error, skipped)
        else:
            yield record


def read_conversations(
    raw: BinaryIO, name: str, config: ConversationCorpusConfig
) -> Iterator[Conversation | BadRecord]:
    """The conversations of one open file called `name`, in order."""
    plain_name, compression = strip_compression(name)
    suffix = PurePath(plain_name).suffix
    try:
        with decompressed(raw, compression) as file:
            if suffix in PARQUET:
                records = table_rows(file, name, seekable=not compression)
            elif suffix in JSON_LINES:
                records = json_lines(file, name)
            else:
                records = _json(file, name)
            for record in records:
                if isinstance(record, BadRecord):
                    yield record
                else:
                    yield from _of_record(record[1], record[0], config)
    except DamagedFileError as error:
        yield BadRecord(name, "damaged file", f"{error}; what follows in it is lost")


def _of_record(record: Any, source: str, config: ConversationCorpusConfig) -> Iterator[Conversation | BadRecord]:
    """The conversations of a record, all of them or, in place of them, what is wrong."""
    try:
        found = [
            Conversation(messages, contexts, source, config.answer_form)
            for messages, contexts in conversations_of(record, config.format)
        ]
        for conversation in found:
            _refuse_surrogates(conversation)
    except BadConversation as error:
        yield BadRecord(source, error.kind, error.detail)
    except ValueError as error:  # the turns are out of order
        yield BadRecord(source, "turns out of order", str(error))
    else:
        yield from found


def _refuse_surrogates(conversation: Conversation) -> None:
    """JSON can spell half a character ("\\ud800"), which no tokenizer can read."""
    texts = [message.content for message in conversation.messages]
    texts += [text for context in conversation.contexts for text in (context.title, context.text)]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadConversation("lone surrogate", "half a character, which comes from a broken escape") from None


def _json(file: BinaryIO, name: str) -> Iterator[tuple[str, Any] | BadRecord]:
    """The elements of a JSON array, each with the line it begins on; a file that is none is read as JSON lines."""
    content = file.read()
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from json_lines(content.splitlines(keepends=True), name)
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield wrong_encoding(f"{name}:{line}", content, error)
        return
    decoder = json.JSONDecoder()
    place, line = _skip_space(text, text.index("[") + 1), 1
    counted = 0
    while place < len(text) and text[place] != "]":
        line += text.count("\n", counted, place)
        counted = place
        try:
            record, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield BadRecord(f"{name}:{line}", "broken JSON", f"{error}; what follows in it is lost")
            return
        yield f"{name}:{line}", record
        place = _skip_space(text, place)
        if text[place : place + 1] == ",":
            place = _skip_space(text, place + 1)
        elif text[place : place + 1] != "]":
            break
    if text[place : place + 1] != "]":
        line = text.count("\n", 0, place) + 1
        yield BadRecord(f"{name}:{line}", "broken JSON", "expected , or ] behind a record; what follows in it is lost")


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
