"""A plain conversation with a model: what was said so far is one text, which the model continues.

    User: <the first message>

    Assistant:<its reply>

    User: <the next message>

    Assistant:

The reply is what the model writes until it begins the user's next turn, ends the document, or has written
max_new_tokens.
"""

from __future__ import annotations

from dataclasses import replace

from retrolit.generation.generator import Generator, Pieces
from retrolit.generation.sampling import SamplingConfig


class Chat:
    """One conversation. When it grows beyond the length the model is meant for, its oldest turns are forgotten."""

    def __init__(self, generator: Generator, sampling: SamplingConfig | None = None) -> None:
        sampling = sampling or SamplingConfig()
        self.generator = generator
        self.sampling = replace(sampling, stop=["\n\nUser:", *sampling.stop])
        self.turns: list[tuple[str, str]] = []
        """Messages and their replies, as far as they are remembered."""

    def say(self, message: str) -> Pieces:
        """The reply to `message`, in pieces; it becomes part of the conversation when the last one is taken."""
        prompt = self.fit(message)
        generation = yield from self.generator.stream(prompt, self.sampling)
        self.turns.append((message, generation.text))
        return generation

    def fit(self, message: str) -> str:
        """The prompt for a reply to `message`; forgets the oldest turns that do not fit into the model's length."""
        room = self.generator.decoder.config.max_position_embeddings - self.sampling.max_new_tokens
        while True:
            turns = [f"User: {said}\n\nAssistant:{reply}\n\n" for said, reply in self.turns]
            prompt = "".join([*turns, f"User: {message}\n\nAssistant:"])
            if not self.turns or len(self.generator.tokenizer.encode(prompt)) <= room:
                return prompt
            del self.turns[0]
