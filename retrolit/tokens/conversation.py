"""What a conversation is, whatever file it came from and whatever template writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. Raises ValueError for a role that is none of the three."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"Message.role: expected one of {', '.join(get_args(Role))}, got {self.role!r}")


@dataclass(frozen=True)
class Context:
    """A passage that a reply may rest on; the title may be empty."""

    title: str
    text: str

    @property
    def as_neighbor(self) -> str:
        """How the encoder of a Retro reads it."""
        return f"title: {self.title}, source: {self.text}"


@dataclass(frozen=True)
class Conversation:
    """Turns of a user and an assistant, perhaps after a system message.

    Raises ValueError where the turns do not begin with the user or do not alternate.
    """

    messages: Sequence[Message]
    """[system,] user, assistant, user, ...; the last one may be the user's (a prompt) or the assistant's."""

    contexts: Sequence[Context] = ()
    """Passages for the last reply, the best first."""

    source: str = ""
    """Where it came from, for people: "dolly.jsonl:17"."""

    answer_form: str = ""
    """How the last reply is to be given, one of the template's `answers` ("short", "long", ...); free when empty."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "contexts", tuple(self.contexts))
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or turns[::2].count("user") + turns[1::2].count("assistant") < len(turns):
            raise ValueError(
                "Conversation.messages: expected [system,] user, assistant, user, ... in turns, got "
                f"{', '.join(roles) or 'none'}"
            )

    @property
    def system(self) -> str | None:
        """The system message, where there is one."""
        return self.messages[0].content if self.messages[0].role == "system" else None

    @property
    def turns(self) -> Sequence[Message]:
        """The messages without the system's."""
        return self.messages[self.messages[0].role == "system" :]
