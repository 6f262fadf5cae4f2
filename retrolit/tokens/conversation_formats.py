"""From a record of a published data set to conversations: one small function a format.

messages           OpenAI: {"messages": [{"role": "user", "content": "..."}, ...]}
sharegpt           {"conversations": [{"from": "human", "value": "..."}, ...]}
alpaca             {"instruction": "...", "input": "...", "output": "..."}
dolly              {"instruction": "...", "context": "...", "response": "..."}
self-instruct      {"instruction": "...", "instances": [{"input": "...", "output": "..."}, ...]}
nvidia-qa          {"question": "...", "answers": ["..."], "ctxs": [{"title": "...", "text": "..."}, ...]}
openassistant      trees: {"prompt": {"text": "...", "role": "prompter", "replies": [...]}}, or that message itself
prompt-completion  {"prompt": "...", "completion": "..."}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from retrolit.tokens.conversation import Context, Message, Role
from retrolit.tokens.tokenizer import END_OF_DOCUMENT

Turns = tuple[list[Message], list[Context]]
"""Messages and contexts of one conversation."""

DIALOGUE = re.compile(r"(?:^|\n\n)(User|Assistant):")


class BadConversation(Exception):
    """Why a record is no conversation: the kind of mistake, and the details."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


def conversations_of(record: Any, name: str = "auto") -> list[Turns]:
    """The conversations of a record of this format, or of the one its fields show.

    User's turns behind the last reply are left out. Raises BadConversation.
    """
    if not isinstance(record, dict):
        raise BadConversation("not an object", f"expected an object, got {type(record).__name__}")
    found = list(FORMATS[detect(record) if name == "auto" else name](record))
    for messages, _ in found:
        while messages and messages[-1].role == "user":
            messages.pop()
        if not any(message.role == "assistant" for message in messages):
            raise BadConversation("no reply", "expected an assistant's turn, got none")
        for message in messages:
            if message.role != "system" and (not message.content or message.content.isspace()):
                raise BadConversation("empty turn", f"expected text in every turn, got an empty {message.role}'s")
    return found


def detect(record: dict[str, Any]) -> str:
    """The format that has these fields. Raises BadConversation where none has."""
    for name, fields in (
        ("messages", {"messages"}),
        ("sharegpt", {"conversations"}),
        ("self-instruct", {"instruction", "instances"}),
        ("dolly", {"instruction", "response"}),
        ("alpaca", {"instruction", "output"}),
        ("nvidia-qa", {"question"}),
        ("prompt-completion", {"prompt", "completion"}),
        ("openassistant", {"replies"}),
    ):
        if fields <= set(record):
            return name
    if isinstance(record.get("prompt"), dict):
        return "openassistant"
    raise BadConversation(
        "unknown format", f"expected the fields of {', '.join(FORMATS)}, got {', '.join(map(str, record)) or 'none'}"
    )


def _messages(record: dict[str, Any]) -> Iterator[Turns]:
    roles: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
    yield [_turn(turn, "role", "content", roles) for turn in _list(record, "messages")], []


def _sharegpt(record: dict[str, Any]) -> Iterator[Turns]:
    roles: dict[str, Role] = {"system": "system", "human": "user", "user": "user", "gpt": "assistant",
                              "chatgpt": "assistant", "assistant": "assistant"}  # fmt: skip
    system = [Message("system", _text(record, "system"))] if record.get("system") else []
    yield [*system, *(_turn(turn, "from", "value", roles) for turn in _list(record, "conversations"))], []


def _alpaca(record: dict[str, Any]) -> Iterator[Turns]:
    yield _exchange(_asked(record, record), _text(record, "output")), []


def _dolly(record: dict[str, Any]) -> Iterator[Turns]:
    contexts = [Context("", _text(record, "context"))] if record.get("context") else []
    yield _exchange(_text(record, "instruction"), _text(record, "response")), contexts


def _self_instruct(record: dict[str, Any]) -> Iterator[Turns]:
    for instance in _list(record, "instances"):
        yield _exchange(_asked(record, instance), _text(instance, "output")), []


def _nvidia_qa(record: dict[str, Any]) -> Iterator[Turns]:
    question, answer = _text(record, "question"), _first_answer(record)
    if record.get("qa_type") == "multi_choice_qa":
        options = [f"({chr(ord('A') + number)}) {each}" for number, each in
                   enumerate(_list(record, "multichoice_options"))]  # fmt: skip
        question += f"\nChoose one based on the following options: {' '.join(options)}"
    contexts = _contexts(record)
    parts = DIALOGUE.split(question)
    if len(parts) > 1 and not parts[0].strip():  # the turns so far as one text, up to the Assistant: to answer
        roles: dict[str, Role] = {"User": "user", "Assistant": "assistant"}
        turns = [Message(roles[name], text.strip()) for name, text in zip(parts[1::2], parts[2::2], strict=True)]
        if turns[-1].role == "assistant" and not turns[-1].content:
            turns.pop()
        yield [*turns, Message("assistant", answer)], contexts
    else:
        yield _exchange(question, answer), contexts


def _openassistant(record: dict[str, Any]) -> Iterator[Turns]:
    """Every way from the first message to a reply that no other reply follows; deleted messages end it."""
    root = record["prompt"] if isinstance(record.get("prompt"), dict) else record
    roles: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}

    def ways(message: dict[str, Any], before: list[Message]) -> Iterator[list[Message]]:
        if message.get("deleted"):
            return
        so_far = [*before, _turn(message, "role", "text", roles)]
        longer = [way for reply in message.get("replies") or [] for way in ways(reply, so_far)]
        if longer:
            yield from longer
        elif so_far[-1].role == "assistant":
            yield so_far

    for way in ways(root, []):
        yield way, []


def _prompt_completion(record: dict[str, Any]) -> Iterator[Turns]:
    yield _exchange(_text(record, "prompt"), _text(record, "completion").removesuffix(END_OF_DOCUMENT).strip()), []


FORMATS: dict[str, Callable[[dict[str, Any]], Iterator[Turns]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "dolly": _dolly,
    "self-instruct": _self_instruct,
    "nvidia-qa": _nvidia_qa,
    "openassistant": _openassistant,
    "prompt-completion": _prompt_completion,
}


def _exchange(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


def _asked(record: dict[str, Any], instance: dict[str, Any]) -> str:
    """An instruction and, behind a blank line, what it is to be done with."""
    instruction = _text(record, "instruction")
    given = _text(instance, "input") if instance.get("input") else ""
    return f"{instruction}\n\n{given}" if given else instruction


def _first_answer(record: dict[str, Any]) -> str:
    """The first of several answers: the only one that is trained."""
    answers = record.get("answers", record.get("answer", record.get("longform_answer")))
    first = answers[0] if isinstance(answers, list) and answers else answers
    if isinstance(first, dict):
        return _text(first, "text").strip()
    if first is None or first == []:
        raise BadConversation("missing field", "expected an answer in answers, answer or longform_answer, got none")
    return str(first)


def _contexts(record: dict[str, Any]) -> list[Context]:
    """The passage that holds the answer, where the record has one, else those that were retrieved."""
    given = record.get("sub-paragraphs", record.get("sub_paragraph"))
    if isinstance(given, list) and len(given) == 2:
        return [Context(str(given[0]), str(given[1]))]
    if isinstance(given, str):
        return [Context("", given)] if given else []
    return [Context(str(each.get("title") or ""), _text(each, "text")) for each in record.get("ctxs") or []]


def _turn(turn: Any, role: str, content: str, roles: dict[str, Role]) -> Message:
    if not isinstance(turn, dict):
        raise BadConversation("not an object", f"expected turns that are objects, got {type(turn).__name__}")
    if turn.get(role) not in roles:
        raise BadConversation("unknown role", f"expected {role} to be one of {', '.join(roles)}, got {turn.get(role)}")
    parts = turn.get(content)
    if isinstance(parts, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return Message(roles[turn[role]], "".join(_text(part, "text") for part in parts))
    return Message(roles[turn[role]], _text(turn, content))


def _list(record: dict[str, Any], field: str) -> list[Any]:
    found = record.get(field)
    if not isinstance(found, list) or not found:
        raise BadConversation("missing field", f"expected a list in {field!r}, got {type(found).__name__}")
    return found


def _text(record: dict[str, Any], field: str) -> str:
    if field not in record:
        raise BadConversation("missing field", f"expected the field {field!r}, got {', '.join(map(str, record))}")
    if not isinstance(record[field], str):
        raise BadConversation("not text", f"expected text in {field!r}, got {type(record[field]).__name__}")
    return record[field]
