"""The chat template of a Hugging Face tokenizer: a program in Jinja, run in its sandbox.

The program is run on stand-ins for the messages, and its result is cut at them: so the template's own special tokens
are found and a message that spells one stays text, and where a reply begins and ends is seen. A second run on the real
messages has to give the same text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from retrolit.storage import read_json
from retrolit.tokens.chat_template import END, PROMPT, ChatTemplate, Piece, Special
from retrolit.tokens.conversation import Conversation

CONFIG = "tokenizer_config.json"
SOURCE = "chat_template.jinja"
STAND_IN = re.compile("\ue000(\\d+)\ue001")


@dataclass
class JinjaTemplate(ChatTemplate):
    """A template of Hugging Face's. Raises ValueError where it cannot be read or run, or changes the messages."""

    name: str
    """For messages."""

    source: str
    """The program."""

    named_tokens: dict[str, str]
    """bos_token, eos_token and the like, which the program may use."""

    special_tokens: list[str]
    """Texts that stand for one id each, where the program writes them."""

    @classmethod
    def load(cls, folder: Path) -> JinjaTemplate:
        """That in a tokenizer's folder: chat_template.jinja, or chat_template in tokenizer_config.json."""
        config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        source = config.get("chat_template")
        if (folder / SOURCE).is_file():
            source = (folder / SOURCE).read_text(encoding="utf-8")
        if isinstance(source, list):
            source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
        if not isinstance(source, str):
            raise FileNotFoundError(f"{folder}: expected a chat template in {SOURCE} or {CONFIG}, got none")
        named = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in config.items()
            if name.endswith("_token") and isinstance(token, dict | str)
        }
        added = list(config.get("added_tokens_decoder", {}).values())
        if (folder / "tokenizer.json").is_file():
            added += read_json(folder / "tokenizer.json").get("added_tokens", [])
        specials = {entry["content"] for entry in added if entry.get("special")} | set(named.values())
        return cls(folder.name, source, named, sorted(specials, key=len, reverse=True))

    @classmethod
    def of(cls, content: dict[str, Any]) -> JinjaTemplate:
        """The template with these fields."""
        return cls(**content)

    @property
    def settings(self) -> dict[str, Any]:
        return {"source": self.source, "named_tokens": self.named_tokens, "special_tokens": self.special_tokens}

    def contexts_text(self, conversation: Conversation, num_contexts: int) -> str:
        blocks = [f"title: {each.title}, source: {each.text}" for each in conversation.contexts[:num_contexts]]
        return "\n\n".join(blocks)

    def pieces(self, conversation: Conversation, contexts: str) -> list[Piece]:
        if conversation.answer_form:
            raise ValueError(
                f"{conversation.source or 'conversation'}: answer_form: chat template {self.name} is Hugging Face's "
                f"and has none, got {conversation.answer_form!r}; put it into the question"
            )
        contents = [message.content for message in conversation.messages]
        if contexts:
            last_question = len(contents) - (2 if conversation.messages[-1].role == "assistant" else 1)
            contents[last_question] = f"{contexts}\n\n{contents[last_question]}"
        roles = [message.role for message in conversation.messages]
        stand_ins = [f"\ue000{number}\ue001" for number in range(len(contents))]
        whole = self._run(roles, stand_ins)
        contents = self._as_written(roles, contents, whole)
        pieces: list[Piece] = []
        done = 0
        for number in [number for number, role in enumerate(roles) if role == "assistant"]:
            prompt = self._run(roles[:number], stand_ins)
            turn = self._run(roles[: number + 1], stand_ins)
            if not (whole.startswith(prompt) and whole.startswith(turn)):
                raise ValueError(
                    f"chat template {self.name}: expected one that writes the beginning of a conversation the same, "
                    "however it goes on; this one does not, and cannot say which tokens are a reply's"
                )
            end = self._reply_end(turn, len(prompt))
            self._cut(whole[done : len(prompt)], contents, PROMPT, pieces)
            self._cut(whole[len(prompt) : end], contents, sum(role == "assistant" for role in roles[:number]), pieces)
            done = end
        if roles[-1] == "user":
            self._cut(whole[done:], contents, PROMPT, pieces)
        elif not isinstance(pieces[-1][0], Special):
            pieces.append((END, pieces[-1][1]))
        return pieces

    def _run(self, roles: list[Any], contents: list[str]) -> str:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
        import jinja2

        try:
            return self._program.render(
                messages=messages, add_generation_prompt=roles[-1] != "assistant", **self.named_tokens
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"chat template {self.name}: {error}") from error

    def _as_written(self, roles: list[Any], contents: list[str], whole: str) -> list[str]:
        """The messages as the template writes them: unchanged, or without the space around them."""
        real = self._run(roles, contents)
        for as_written in (contents, [content.strip() for content in contents]):
            if STAND_IN.sub(lambda place: as_written[int(place[1])], whole) == real:  # noqa: B023 (used at once)
                return as_written
        raise ValueError(
            f"chat template {self.name}: expected one that writes the messages as they are, or without the space "
            "around them; this one changes them"
        )

    def _reply_end(self, text: str, start: int) -> int:
        """Where in the text the reply that begins at `start` ends: behind the first special token after its message,
        or at the end of the text."""
        message = STAND_IN.search(text, start)
        if message is None:
            raise ValueError(f"chat template {self.name}: expected one that writes every reply, got one that does not")
        special = self._specials.search(text, message.end()) if self.special_tokens else None
        return special.end() if special else len(text)

    def _cut(self, text: str, contents: list[str], reply: int, pieces: list[Piece]) -> None:
        """Adds the text as pieces, stand-ins replaced and special tokens alone."""
        for part in self._specials.split(text) if self.special_tokens else [text]:
            if part in self.special_tokens:
                pieces.append((Special(part), reply))
            elif part:
                pieces.append((STAND_IN.sub(lambda place: contents[int(place[1])], part), reply))

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        return re.compile("(" + "|".join(map(re.escape, self.special_tokens)) + ")")

    @cached_property
    def _program(self) -> Any:
        import jinja2
        from jinja2 import ext, nodes, sandbox

        class Generation(ext.Extension):
            """{% generation %} marks a reply for transformers; here it is found by its message."""

            tags = {"generation"}  # noqa: RUF012 (jinja's own form)

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return nodes.Scope(body, lineno=line)

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        def tojson(value: Any, indent: int | None = None) -> str:
            return json.dumps(value, ensure_ascii=False, indent=indent)

        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
        )
        environment.filters["tojson"] = tojson
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ValueError(f"chat template {self.name}: {error}") from error
