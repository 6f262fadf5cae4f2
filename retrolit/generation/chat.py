"""A conversation with a model: a chat template writes what was said so far, and the model writes the reply.

The reply is what the model writes until it ends its turn as the template ends one, ends the document, or has written
max_new_tokens. Where there is a retriever for contexts, passages that it finds for the message stand in the prompt, and
only there: they are not part of the conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from retrolit.generation.generator import Generator, Pieces
from retrolit.generation.retrieval import Retrieved
from retrolit.generation.sampling import SamplingConfig
from retrolit.tokens.chat_template import ChatTemplate, load_chat_template
from retrolit.tokens.conversation import Context, Conversation, Message

FindContexts = Callable[[str], Sequence[Retrieved]]
"""From a message to passages for it."""


class Chat:
    """One conversation. What grows beyond the length the model is meant for loses contexts first, then oldest turns.

    Args:
        generator: The model and its tokenizer.
        template: What is written around the messages; the plain names User and Assistant when not given.
        sampling: How replies are drawn.
        system: The system message; the template's own when not given, none when empty.
        find_contexts: Passages for a message, to stand in the prompt.
    """

    def __init__(
        self,
        generator: Generator,
        template: ChatTemplate | None = None,
        sampling: SamplingConfig | None = None,
        *,
        system: str | None = None,
        find_contexts: FindContexts | None = None,
    ) -> None:
        sampling = sampling or SamplingConfig()
        self.generator = generator
        self.template = template or load_chat_template("plain")
        texts, ends = self.template.reply_ends[0], self.template.reply_end_ids(generator.tokenizer)
        self.sampling = replace(
            sampling, stop=[*texts, *sampling.stop], stop_tokens=[*ends, *sampling.stop_tokens]
        )  # fmt: skip
        self.system = [] if system is None else [Message("system", system)]
        self.find_contexts = find_contexts
        self.turns: list[Message] = []
        """What was said so far, the user's and the assistant's in turn."""
        self.contexts: list[Retrieved] = []
        """The passages in the last prompt."""

    def say(self, message: str) -> Pieces:
        """The reply to `message`, in pieces; it becomes part of the conversation when the last one is taken.

        Raises ValueError where the message alone is too long.
        """
        pieces = self.generator.stream(self.prompt(message), self.sampling)
        text = ""
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                generation = replace(end.value, text=text.rstrip())
                self.turns += [Message("user", message), Message("assistant", generation.text)]
                return generation
            # The space behind a name is the template's; the reply begins behind it.
            piece = piece if text else piece.lstrip()
            if piece:
                text += piece
                yield piece

    def prompt(self, message: str) -> list[int]:
        """The token ids that a reply to `message` continues."""
        self.contexts = list(self.find_contexts(message)) if self.find_contexts is not None else []
        conversation = Conversation(
            [*self.system, *self.turns, Message("user", message)],
            [Context(context.source, context.text) for context in self.contexts],
        )
        room = self.generator.decoder.config.max_position_embeddings - self.sampling.max_new_tokens
        return self.template.prompt(conversation, self.generator.tokenizer, room, len(self.contexts))
