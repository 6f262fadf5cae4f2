"""Talk to a model, in the terminal or through a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from retrolit.cli.load_generator import Writer, open_writer, warnings_in_lines
from retrolit.cli.show_generation import show_contexts, show_pieces, show_retrieved
from retrolit.generation import Chat, Generation, Generator
from retrolit.generation.contexts import retrieve_contexts
from retrolit.models import Retro
from retrolit.tokens.chat_template import TEMPLATE_FILE, ChatTemplate, load_chat_template

HELP = """\
/new          begin a new conversation
/system TEXT  begin a new conversation with this system message
/neighbors    show what was retrieved for the last reply
/gate 0|1     write without or with the neighbors of a Retro
/help         show these commands
Ctrl-D ends."""


def chat(
    model: str,
    *,
    template: str | None = None,
    system: str | None = None,
    contexts: int = 0,
    show_neighbors: bool = False,
    **options: Any,
) -> None:
    """Talk to a model.

    Each line is a message; the reply is printed while it is made, and the model reads all that was said before. A line
    that begins with / is a command: /new, /system TEXT, /neighbors, /gate 0|1, /help. Ctrl-D ends. In a pipe, each line
    of the input is a message of one conversation, or a command, and only replies and what commands show are printed.

    Args:
        model: a model folder, or a training checkpoint (.ckpt) together with --tokenizer.
        template: what is written around the messages: instructretro, special-tokens, plain, a .yaml file, or a folder
            with a chat template; the one the model was tuned with when not given, and plain where there is none.
        system: the system message; the template's own when not given, none when empty.
        contexts: passages that are retrieved for each message and written into the prompt, from the --retriever.
        show_neighbors: show what was retrieved behind every reply.
    """
    with warnings_in_lines("chat"):
        talk = _Talk(open_writer(model, **options), _template(template, model), system, contexts)
        for message in _messages():
            if message.startswith("/"):
                talk.command(*message[1:].split(maxsplit=1))
                continue
            talk.say(message)
            if show_neighbors:
                talk.show_neighbors()


class _Talk:
    """The conversation that is being held, and the commands around it."""

    def __init__(self, writer: Writer, template: ChatTemplate, system: str | None, num_contexts: int) -> None:
        self.template = template
        self.sampling = writer.sampling
        self.find_contexts = None
        if num_contexts:
            if writer.retriever is None:
                raise ValueError("contexts: to retrieve them expected an index, got none; name one: --retriever FOLDER")
            self.find_contexts = partial(retrieve_contexts, writer.retriever, num_contexts=num_contexts)
        in_the_prompt_alone = num_contexts > 0 and not isinstance(writer.model, Retro)
        self.generator = Generator(writer.model, writer.tokenizer) if in_the_prompt_alone else writer.generator()
        self.begin(system)

    def begin(self, system: str | None) -> None:
        self.system = system
        self.chat = Chat(
            self.generator, self.template, self.sampling, system=system, find_contexts=self.find_contexts
        )  # fmt: skip
        self.reply: Generation | None = None

    def say(self, message: str) -> None:
        self.reply = show_pieces(self.chat.say(message))

    def command(self, name: str = "", argument: str = "") -> None:
        """Runs one; a mistake is told, and the conversation goes on."""
        if name == "new":
            self.begin(self.system)
        elif name == "system":
            self.begin(argument)
        elif name == "neighbors":
            self.show_neighbors()
        elif name == "gate":
            self.set_gate(argument)
        elif name == "help":
            print(HELP)
        else:
            print(f"/{name}: there is no such command; /help shows them", file=sys.stderr)

    def set_gate(self, value: str) -> None:
        if self.generator.retrieval is None:
            print("/gate: nothing is retrieved while this model writes; give a Retro a --retriever", file=sys.stderr)
        elif value not in ("0", "1"):
            print(f"/gate: expected 0 or 1, got {value or 'nothing'}", file=sys.stderr)
        else:
            self.generator.retrieval.gate = float(value)

    def show_neighbors(self) -> None:
        if self.reply is not None and (self.chat.contexts or self.reply.neighbors):
            show_contexts(self.chat.contexts)
            show_retrieved(self.reply)
        else:
            print("nothing was retrieved")


def _template(name: str | None, model: str) -> ChatTemplate:
    if name is None:
        name = model if (Path(model) / TEMPLATE_FILE).is_file() else "plain"
    return load_chat_template(name)


def _messages() -> Iterator[str]:
    """What the user says, a message a line, until there is no more; empty lines are left out."""
    lines = _typed() if sys.stdin.isatty() else _piped()
    for line in lines:
        if message := line.strip():
            yield message


def _typed() -> Iterator[str]:
    import readline  # gives input() line editing

    history = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "retrolit" / "chat_history"
    if history.is_file():
        readline.read_history_file(history)
    readline.set_history_length(1000)
    try:
        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return
    finally:
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(history)


def _piped() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input:{number}: expected UTF-8, got other bytes ({error.reason})") from error
