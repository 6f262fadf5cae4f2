"""Talk to a model, in the terminal or through a pipe."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from retrolit.cli.load_generator import load_generator
from retrolit.cli.show_generation import show_pieces, show_retrieved
from retrolit.generation import Chat, SamplingConfig


def chat(
    model: str,
    *,
    tokenizer: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    retriever: str | None = None,
    show_neighbors: bool = False,
    gate: float = 1.0,
    num_neighbors: int | None = None,
    retrieval_stride: int | None = None,
    exclude: list[str] | None = None,
    **sampling: Any,
) -> None:
    """Talk to a model.

    Each line is a message; the reply is printed while it is made, and the model reads all that was said before, as
    plain text with the names User and Assistant. /new begins a new conversation; Ctrl-D ends. In a pipe, each line of
    the input is a message of one conversation, and only replies are printed.

    Args:
        model: a model folder, or a training checkpoint (.ckpt) together with --tokenizer.
        tokenizer: the tokenizer's folder or file; the model folder's own when not given.
        device: where the model runs; auto takes a GPU where there is one.
        dtype: what the model computes in.
        retriever: for a Retro, the index to retrieve from while it writes: an index folder, or a prepared folder.
        show_neighbors: show what was retrieved for each chunk behind every reply.
        gate: scales what neighbors add to the text; 0 retrieves nothing.
        num_neighbors: neighbors of a chunk; as many as in training when not given.
        retrieval_stride: new tokens after which neighbors are sought again; a chunk's length when not given.
        exclude: leave out neighbors with this text in their source, as --show_neighbors shows it; may be repeated.
    """
    settings = SamplingConfig(**sampling)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"retrolit chat: {message}", file=sys.stderr)
        generator = load_generator(
            model, tokenizer, device, dtype, retriever, gate=gate, num_neighbors=num_neighbors,
            retrieval_stride=retrieval_stride, exclude=exclude,
        )  # fmt: skip
        conversation = Chat(generator, settings)
        for message in _messages():
            if message == "/new":
                conversation = Chat(generator, settings)
                continue
            reply = show_pieces(conversation.say(message))
            if show_neighbors:
                show_retrieved(reply)


def _messages() -> Iterator[str]:
    """What the user says, a message a line, until there is no more; empty lines are left out."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives input() line editing

        lines = _typed()
    else:
        lines = _piped()
    for line in lines:
        if message := line.strip():
            yield message


def _typed() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _piped() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input:{number}: expected UTF-8, got other bytes ({error.reason})") from error
