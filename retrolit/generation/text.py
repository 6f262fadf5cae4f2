"""From tokens that come one at a time to text that never has to be taken back.

A token may end in the middle of a character, and text may turn out to begin a stop text: both are held until they are
certain. What is handed out piece by piece is, joined, the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrolit.tokens import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# The bytes of a character that is not complete yet (3 at most in UTF-8) decode to as many of these, or fewer.
MOST_INCOMPLETE = 3


class TextStream:
    """The text of one continuation. `push` each token, then `finish`; both return the text that has become certain."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        # Only a window of the latest tokens is decoded at each step. It begins with a context, whose text was given
        # before: some tokenizers write a word differently at the beginning of what they decode.
        self._window = list(prompt)
        self._num_context = len(self._window)
        self._given = len(tokenizer.decode(self._window))  # characters of the window's text
        self._held = ""
        self.stopped = False
        """A stop text was met; the text ends before it."""

    def push(self, token: int) -> str:
        """Adds a token; returns the text that has become certain, perhaps none."""
        assert not self.stopped, "the text has ended with a stop text"
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        incomplete = len(text) - len(text.rstrip(REPLACEMENT))
        certain = len(text) - min(incomplete, MOST_INCOMPLETE)
        new = text[self._given : certain]
        self._given = max(self._given, certain)
        if new and not incomplete:
            # A clean border: what came since the last one is context now.
            self._window = self._window[self._num_context :]
            self._num_context = len(self._window)
            self._given = len(self._tokenizer.decode(self._window))
        return self._up_to_stop(new)

    def finish(self) -> str:
        """No token follows: returns what was held."""
        if self.stopped:
            return ""
        text = self._up_to_stop(self._tokenizer.decode(self._window)[self._given :])
        return text + self._held

    def _up_to_stop(self, new: str) -> str:
        """What can be given of the held text and the new one: up to a stop text, or to where one may begin."""
        text = self._held + new
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)]
        certain = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[certain:]
        return text[:certain]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, which may come whole later."""
    return max(n for n in range(min(len(stop) - 1, len(text)) + 1) if text.endswith(stop[:n]))
