"""A continuation in the terminal: its text while it is made, then what was retrieved for it."""

from __future__ import annotations

from collections.abc import Sequence

from retrolit.generation import Generation, Pieces, Retrieved


def show_pieces(pieces: Pieces) -> Generation:
    """Prints the text piece by piece, and a line's end; the whole comes back."""
    while True:
        try:
            print(next(pieces), end="", flush=True)
        except StopIteration as end:
            print()
            return end.value


def show_retrieved(generation: Generation) -> None:
    """Prints the neighbors of every chunk: distance, source, and the text on one line each."""
    for chunk in generation.neighbors:
        print(f"\ntokens {chunk.start}-{chunk.end - 1}:" + ("" if chunk.neighbors else " no neighbors"))
        _show(chunk.neighbors)


def show_contexts(contexts: Sequence[Retrieved]) -> None:
    """Prints the passages that stood in the prompt, in the same way."""
    if contexts:
        print("\nin the prompt:")
        _show(contexts)


def _show(found: Sequence[Retrieved]) -> None:
    for neighbor in found:
        print(f"  {neighbor.distance:.3f}  {neighbor.source}\n         {' '.join(neighbor.text.split())}")
