"""A self-contained HTML page of chunks and their neighbors, with the shared words marked."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrolit.storage import atomic_write

SHORTEST = 4
"""Letters of a word that is marked: shorter ones are shared by any two texts."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h3 { font-size: 1rem; margin: 2.5rem 0 .5rem; }
h4 { font-size: .9rem; font-weight: normal; color: #357; margin: 1rem 0 .2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; }
pre { margin: 0; padding: .6rem; }
.query { background: #f3f3f0; } .found { margin-left: 2rem; border-left: 3px solid #cde; }
.follows { color: #777; } mark { background: #bfe8bf; } .follows mark { background: #ffe08a; color: #222; }
"""


@dataclass(frozen=True)
class Found:
    """One neighbor."""

    distance: float
    source: str
    chunk: str
    continuation: str


@dataclass(frozen=True)
class Shown:
    """A chunk, what follows it in its own text, and its neighbors."""

    title: str
    query: str
    follows: str
    found: list[Found]


def words(text: str) -> set[str]:
    """The words worth marking, in lower case."""
    return {word.lower() for word in re.findall(r"\w+", text) if len(word) >= SHORTEST}


def pieces(text: str, marked: set[str]) -> Iterator[tuple[str, bool]]:
    """The text cut into words and what lies between, each with whether it is one of the marked words."""
    for piece in re.split(r"(\w+)", text):
        if piece:
            yield piece, piece.lower() in marked


def neighbors_html(item: Shown) -> str:
    """A chunk and its neighbors, with the words they share marked."""
    in_neighbors = set().union(*(words(found.chunk) for found in item.found))
    parts = [f"<h3>{html.escape(item.title)}</h3>"]
    parts.append(_block("query", item.query, in_neighbors))
    parts.append(_block("follows", item.follows, set()))
    for rank, found in enumerate(item.found, 1):
        head = f"{rank}. distance {found.distance:.3f}, {found.source}"
        parts.append(f'<div class="found"><h4>{html.escape(head)}</h4>')
        parts.append(_block("chunk", found.chunk, words(item.query)))
        parts.append(_block("follows", found.continuation, words(item.follows)) + "</div>")
    return "\n".join(parts)


def write_page(path: Path, title: str, shown: list[Shown]) -> None:
    """Writes a page of its own."""
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>Green: words that the chunk and a neighbor share. Yellow: words of a neighbor's continuation that come next in the
chunk's own text.</p>
{chr(10).join(map(neighbors_html, shown))}
</html>
"""
    with atomic_write(path) as file:
        file.write(page.encode())


def _block(kind: str, text: str, marked: set[str]) -> str:
    if not text:
        return ""
    inside = "".join(
        f"<mark>{html.escape(piece)}</mark>" if is_marked else html.escape(piece)
        for piece, is_marked in pieces(text, marked)
    )
    return f'<pre class="{kind}">{inside}</pre>'
