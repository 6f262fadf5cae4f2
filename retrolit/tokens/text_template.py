"""A chat template as data: a .yaml file with the texts around the messages."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from retrolit.tokens.chat_template import END, PROMPT, ChatTemplate, Piece, Special
from retrolit.tokens.conversation import Conversation
from retrolit.tokens.yaml_fields import checked_fields

SLOT = re.compile(r"\{(title|text)\}")


@dataclass
class AnswerForm:
    """How a reply of a certain form is asked for."""

    question: str = "{content}"
    """Around the last question, {content}."""

    opening: str = ""
    """What the reply begins with; it is part of the prompt and not trained."""


@dataclass
class TextTemplate(ChatTemplate):
    """The texts of a template. {eod} stands for the tokenizer's end of a document.

    Raises ValueError where a text lacks its {slot}.
    """

    name: str
    """For messages."""

    system: str
    """Around the system message, {content}."""

    default_system: str
    """The system message of a conversation without one; none is written when empty."""

    context: str
    """One context, {title} and {text}."""

    between_contexts: str
    """Between two of them."""

    contexts: str
    """Around all of them, {contexts}; they stand after the system message, and where there are none nothing does."""

    begin: str
    """Before the first user's turn."""

    user: str
    """A user's turn, {content}, and all that stands before the reply to it."""

    reply: str
    """The reply, {content}."""

    turn_end: str
    """What ends a reply that another turn follows; it is trained with it."""

    next: str
    """What stands between that and the user's turn."""

    end: str
    """What ends the last reply; it is trained with it."""

    special_tokens: list[str] = field(default_factory=list)
    """Those of the texts above that are one id each."""

    answers: dict[str, AnswerForm] = field(default_factory=dict)
    """Name of each form a reply can be asked in."""

    def __post_init__(self) -> None:
        for name, slots in (("system", ["{content}"]), ("context", ["{title}", "{text}"]), ("contexts", ["{contexts}"]),
                            ("user", ["{content}"]), ("reply", ["{content}"])):  # fmt: skip
            for slot in slots:
                if getattr(self, name).count(slot) != 1:
                    raise ValueError(f"chat template {self.name}: {name}: expected {slot} in it once")
        special = "|".join(re.escape(token) for token in ["{content}", "{contexts}", "{eod}", *self.special_tokens])
        self._parts = {
            item.name: _split(getattr(self, item.name), special)
            for item in fields(self)
            if item.name in ("system", "contexts", "begin", "user", "reply", "turn_end", "next", "end")
        }

    @classmethod
    def load(cls, path: Path) -> TextTemplate:
        """The template in a file. Raises ValueError where fields are missing or unknown."""
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        texts = checked_fields(cls, content, str(path), "a chat template", given_elsewhere=("name",))
        return cls.of(texts | {"name": path.stem})

    @classmethod
    def of(cls, content: dict[str, Any]) -> TextTemplate:
        """The template with these fields."""
        answers = {name: AnswerForm(**form) for name, form in (content.get("answers") or {}).items()}
        known: dict[str, Any] = {**content, "answers": answers}
        return cls(**known)

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def contexts_text(self, conversation: Conversation, num_contexts: int) -> str:
        if not conversation.contexts:  # most have none
            return ""
        return self.between_contexts.join(
            SLOT.sub(lambda slot: getattr(context, slot[1]), self.context)  # noqa: B023 (used at once)
            for context in conversation.contexts[:num_contexts]
        )

    def pieces(self, conversation: Conversation, contexts: str) -> list[Piece]:
        writer = _Writer(self._parts)
        system = conversation.system if conversation.system is not None else self.default_system
        if system:
            writer.write("system", system, PROMPT)
        if contexts:
            writer.write("contexts", contexts, PROMPT)
        turns = conversation.turns
        form = self._answer_form(conversation)
        last_question = (len(turns) - 1) // 2 * 2
        for number in range(0, len(turns), 2):
            turn = number // 2
            if number == 0:
                writer.write("begin", "", PROMPT)
            else:
                writer.write("turn_end", "", turn - 1)
                writer.write("next", "", PROMPT)
            question = turns[number].content
            if form is not None and number == last_question:
                writer.write("user", form.question.replace("{content}", question), PROMPT)
                writer.text(form.opening)
            else:
                writer.write("user", question, PROMPT)
            if number + 1 < len(turns):
                writer.write("reply", turns[number + 1].content, turn)
        if len(turns) % 2 == 0:
            writer.write("end", "", len(turns) // 2 - 1)
        return writer.close()

    def _answer_form(self, conversation: Conversation) -> AnswerForm | None:
        if not conversation.answer_form:
            return None
        if conversation.answer_form not in self.answers:
            raise ValueError(
                f"{conversation.source or 'conversation'}: answer_form: expected one of those of chat template "
                f"{self.name} ({', '.join(self.answers) or 'it has none'}), got {conversation.answer_form!r}"
            )
        return self.answers[conversation.answer_form]


class _Writer:
    """Joins texts of the same reply, and lets special tokens stand alone."""

    def __init__(self, parts: dict[str, list[str]]) -> None:
        self._parts = parts
        self._pieces: list[Piece] = []
        self._text = ""
        self._reply = PROMPT

    def write(self, name: str, content: str, reply: int) -> None:
        if reply != self._reply:
            self._flush()
            self._reply = reply
        for part in self._parts[name]:
            if part == _CONTENT:
                self._text += content
            elif type(part) is str:
                self._text += part
            else:
                self._flush()
                self._pieces.append((part, reply))

    def text(self, text: str) -> None:
        """Goes on with what was written last."""
        self._text += text

    def close(self) -> list[Piece]:
        self._flush()
        return self._pieces

    def _flush(self) -> None:
        if self._text:
            self._pieces.append((self._text, self._reply))
            self._text = ""


_CONTENT = "{content}"


def _split(text: str, special: str) -> list[str]:
    """The text between slots and special tokens, and these."""
    parts = []
    for part in re.split(f"({special})", text):
        if part in ("{content}", "{contexts}"):
            parts.append(_CONTENT)
        elif part == END:
            parts.append(END)
        elif part:
            parts.append(part if not re.fullmatch(special, part) else Special(part))
    return parts


def as_jinja(template: TextTemplate) -> str:
    """The template as a program in Jinja, as transformers' `apply_chat_template` runs it.

    `documents` (title, text) are the contexts. Forms of answers have no counterpart there.
    """
    texts = {item.name: getattr(template, item.name) for item in fields(template) if item.name not in NO_TEXTS}
    said = {name: _expression(text) for name, text in texts.items()}
    context = _expression(template.context, {"{title}": "document['title']", "{text}": "document['text']"})
    return "".join(
        [
            "{% if messages[0]['role'] == 'system' %}",
            "{% set content = messages[0]['content'] %}{% set turns = messages[1:] %}",
            f"{{% else %}}{{% set content = {said['default_system']} %}}{{% set turns = messages %}}{{% endif %}}",
            f"{{% if content %}}{{{{ {said['system']} }}}}{{% endif %}}",
            "{% if documents %}{% set written = namespace(text='') %}{% for document in documents %}",
            f"{{% set before = '' if loop.first else {said['between_contexts']} %}}",
            f"{{% set written.text = written.text ~ before ~ {context} %}}{{% endfor %}}",
            f"{{% set contexts = written.text %}}{{{{ {said['contexts']} }}}}{{% endif %}}",
            "{% for message in turns %}{% set content = message['content'] %}",
            "{% if message['role'] == 'user' %}",
            f"{{{{ {said['begin']} if loop.first else {said['turn_end']} ~ {said['next']} }}}}{{{{ {said['user']} }}}}",
            f"{{% else %}}{{{{ {said['reply']} }}}}{{% if loop.last %}}{{{{ {said['end']} }}}}{{% endif %}}",
            "{% endif %}{% endfor %}",
        ]
    )


NO_TEXTS = ("name", "special_tokens", "answers", "context")


def _expression(text: str, slots: dict[str, str] | None = None) -> str:
    """A text with {slots} as an expression of Jinja."""
    slots = slots or {"{content}": "content", "{contexts}": "contexts", "{eod}": "eos_token"}
    parts = re.split(f"({'|'.join(map(re.escape, slots))})", text)
    return " ~ ".join(slots.get(part, json.dumps(part, ensure_ascii=False)) for part in parts if part) or '""'
