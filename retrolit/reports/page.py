"""A report in memory, and as a self-contained HTML page or as Markdown.

The page loads nothing: styles and plots are inside, there is no script, and its own policy forbids everything else.
Whatever comes from a run is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from retrolit.reports.neighbor_page import Shown, neighbors_html
from retrolit.reports.plots import NUM_COLOURS, BarPlot, LinePlot, draw
from retrolit.reports.tables import Table

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1f23; --quiet: #5b636d; --rule: #dfe3e8; --block: #f5f6f8;
  --mark: #c9ecc9; --follows: #ffe39a; --c0: #1f66d1; --c1: #c2570c; --c2: #16803c; --c3: #7c3aed; --c4: #be185d;
  --c5: #0f766e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --quiet: #a2abb6; --rule: #353b43;
  --block: #1f242a; --mark: #23552b; --follows: #5c4a10; --c0: #6ea8fe; --c1: #f59e4b; --c2: #4ade80; --c3: #b794f6;
  --c4: #f472b6; --c5: #5eead4; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto 6rem; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 3rem 0 .6rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; } h4 { font-size: .9rem; font-weight: 600; margin: 1rem 0 .2rem; }
nav a { color: var(--c0); margin-right: 1rem; } .missing { color: var(--quiet); font-style: italic; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .87rem; margin: .4rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; } .note { color: var(--quiet); font-size: .82rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: pre-wrap;
  font-variant-numeric: tabular-nums; }
th { vertical-align: bottom; } th:first-child, td:first-child, .texts th, .texts td { text-align: left; }
.texts td { overflow-wrap: anywhere; vertical-align: top; }
figure { margin: 1rem 0 1.6rem; } figcaption { font-weight: 600; }
svg { width: 100%; max-width: 46rem; display: block; }
.legend { font-size: .85rem; margin: .1rem 0 .3rem; } .legend span { margin-right: 1.1rem; white-space: nowrap; }
.legend i { display: inline-block; width: 1.6rem; border-top: 3px; vertical-align: middle; margin-right: .35rem; }
.legend i.faint { opacity: .45; }
svg text { fill: var(--quiet); font: 12px system-ui, sans-serif; } svg text.name { fill: var(--ink); }
.grid { stroke: var(--rule); } .zero { stroke: var(--quiet); } .line { fill: none; stroke-width: 2; }
.line.faint { stroke-width: 1.2; opacity: .45; } .whisker { stroke: var(--ink); stroke-width: 1.4; opacity: .75; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; background: var(--block);
  margin: 0 0 .4rem; padding: .6rem .8rem; } summary { cursor: pointer; margin: .5rem 0; }
.found { margin-left: 1.5rem; padding-left: .8rem; border-left: 3px solid var(--rule); }
.follows { color: var(--quiet); }
mark { background: var(--mark); color: inherit; } .follows mark { background: var(--follows); color: var(--ink); }
""" + "".join(
    f"polyline.c{i}, .whisker.c{i} {{ stroke: var(--c{i}); }} .bar.c{i}, .dot.c{i} {{ fill: var(--c{i}); }} "
    f".legend .c{i} {{ border-color: var(--c{i}); border-top-style: {('solid', 'dashed', 'dotted')[i % 3]}; }} "
    f"polyline.c{i} {{ stroke-dasharray: {('none', '8 4', '2 3')[i % 3]}; }}\n"  # where one line lies on another
    for i in range(NUM_COLOURS)
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MOST_POINTS = 12
"""Points of a line that Markdown, which has no plots, shows as a table."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    missing: bool = False
    """It says what is not there, and how to make it."""


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


@dataclass(frozen=True)
class Folded:
    """A text as it is, shown when its title is chosen."""

    title: str
    text: str
    open: bool = False


Block = Text | Heading | Folded | Table | LinePlot | BarPlot | Shown


@dataclass(frozen=True)
class Section:
    """What stands under one title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    sections: Sequence[Section]


def to_html(page: Page) -> str:
    """The page as one HTML file."""
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(page.sections))
    body = [f"<h1>{escape(page.title)}</h1>", f"<nav>{links}</nav>"]
    for i, section in enumerate(page.sections):
        body.append(f'<h2 id="s{i}">{escape(section.title)}</h2>')
        body += map(_html, section.blocks)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(page.title)}</title>
<style>{STYLE}</style></head><body>
{chr(10).join(body)}
</body></html>
"""


def to_markdown(page: Page) -> str:
    """The same as Markdown; plots become small tables."""
    parts = [f"# {_plain(page.title)}"]
    for section in page.sections:
        parts.append(f"## {_plain(section.title)}")
        parts += map(_markdown, section.blocks)
    return "\n\n".join(parts) + "\n"


# ---- HTML


def _html(block: Block) -> str:
    match block:
        case Text():
            return f"<p{' class=missing' if block.missing else ''}>{escape(block.text)}</p>"
        case Heading():
            return f"<h3>{escape(block.text)}</h3>"
        case Folded():
            kind = " open" if block.open else ""
            return f"<details{kind}><summary>{escape(block.title)}</summary><pre>{escape(block.text)}</pre></details>"
        case Table():
            return _html_table(block)
        case Shown():
            return neighbors_html(block)
        case _:
            return f"<figure><figcaption>{escape(block.title)}</figcaption>{_legend(block)}{draw(block)}</figure>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.caption)}</p>' if table.caption else ""
    kind = ' class="texts"' if table.texts else ""
    return (
        f'<div class="wide"><table{kind}><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _legend(plot: LinePlot | BarPlot) -> str:
    if isinstance(plot, BarPlot):
        return ""
    entries = "".join(
        f'<span><i class="c{line.colour % NUM_COLOURS}{" faint" if line.faint else ""}"></i>{escape(line.name)}</span>'
        for line in plot.lines
    )
    return f'<div class="legend">{entries}</div>'


# ---- Markdown


def _markdown(block: Block) -> str:
    match block:
        case Text():
            return f"*{_plain(block.text)}*" if block.missing else _plain(block.text)
        case Heading():
            return f"### {_plain(block.text)}"
        case Folded():
            return f"{_plain(block.title)}:\n\n{_fenced(block.text)}"
        case Table():
            return _markdown_table(block)
        case Shown():
            return _markdown_neighbors(block)
        case BarPlot():
            rows = [[bar.name, f"{bar.value:.4f}", *_ends(bar.interval)] for bar in block.bars]
            return _markdown_table(Table(f"{block.title} ({block.unit})", ["", "value", "from", "to"], rows))
        case LinePlot():
            return _markdown_table(_points(block))


def _points(plot: LinePlot) -> Table:
    """Some of each line's points, evenly spread, always the first and the last."""
    chosen = {x for line in plot.lines for x in _spread([x for x, _ in line.points])}
    values = [dict(line.points) for line in plot.lines]
    rows = [
        [plot.ticks.get(x, f"{x:,.10g}"), *(f"{line[x]:.5g}" if x in line else "" for line in values)]
        for x in sorted(chosen)
    ]
    return Table(plot.title, [plot.x, *(line.name for line in plot.lines)], rows)


def _spread(values: Sequence[float]) -> list[float]:
    last = len(values) - 1
    if last < MOST_POINTS:
        return list(values)
    return [values[round(i * last / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _ends(interval: Sequence[float] | None) -> list[str]:
    return ["", ""] if interval is None else [f"{end:.4f}" for end in interval]


def _markdown_table(table: Table) -> str:
    rule = ["---", *(["---" if table.texts else "---:"] * (len(table.head) - 1))]
    lines = [_row([_plain(cell) for cell in row]) for row in (table.head, *table.rows)]
    lines.insert(1, _row(rule))
    caption = f"\n\n{_plain(table.caption)}" if table.caption else ""
    return f"{_plain(table.title)}:\n\n" + "\n".join(lines) + caption


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_neighbors(shown: Shown) -> str:
    parts = [f"**{_plain(shown.title)}**", _fenced(shown.query), "then:", _fenced(shown.follows)]
    for rank, found in enumerate(shown.found, 1):
        parts.append(f"{rank}. distance {found.distance:.3f}, {_plain(found.source)}")
        parts.append(_fenced(f"{found.chunk}{found.continuation}"))
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    """A block of code, with a fence longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _plain(text: str) -> str:
    """Text in which nothing is Markdown or HTML, on one line."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
