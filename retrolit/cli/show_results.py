"""The results of a split as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

NEIGHBORS_READ = {
    "in": "occurs in a neighbor read",
    "not in": "occurs in none",
    "nothing to read": "no neighbor to read",
}


def show_results(console: Console, split: str, results: dict[str, Any]) -> None:
    """Print what results.json holds of one split; see docs/evaluation.md."""
    console.print(
        f"{split}: {results['documents']:,} documents, {results['tokens']:,} tokens, {results['bytes']:,.0f} bytes",
        style="bold",
    )
    leaked = results["leakage"]["documents"]
    if leaked:
        console.print(
            f"LEAKAGE: {leaked:,} of these documents are training documents too: {results['leakage']['named'][0]}",
            style="bold red",
            markup=False,
        )
    console.print(_readings(results))
    if "overlap_curve" in results:
        console.print(_curve(results))
        console.print(_tokens(results))


def _readings(results: dict[str, Any]) -> Table:
    table = Table("reads", title="what the model reads")
    for heading in ("loss", "perplexity", "word perplexity", "bits per byte", "95 %"):
        table.add_column(heading, justify="right")
    gains = results.get("gain", {})
    if gains:
        table.add_column("gain", justify="right")
        table.add_column("95 %", justify="right")
    for name, values in results["readings"].items():
        row = [name, f"{values['loss']:.4f}", f"{values['perplexity']:,.2f}", _large(values["word_perplexity"])]
        row += [f"{values['bits_per_byte']:.4f}", _interval(results["bits_per_byte_interval"][name])]
        if name in gains:
            row += [_number(gains[name]), _interval(results["gain_interval"][name])]
        table.add_row(*row)
    return table


def _curve(results: dict[str, Any]) -> Table:
    table = Table("overlap at most", title="bits per byte, by a chunk's overlap with its neighbors")
    readings = list(results["readings"])
    for heading in ("of the text", *readings, "gain over none", "95 %"):
        table.add_column(heading, justify="right")
    for point in results["overlap_curve"]:
        table.add_row(
            f"{100 * point['at_most']:g} %",
            f"{point['bytes'] / results['bytes']:.1%}",
            *(_number(point["bits_per_byte"][name]) for name in readings),
            _number(point["gain"]["none"]),
            _interval(point["gain_interval"]["none"]),
        )
    return table


def _tokens(results: dict[str, Any]) -> Table:
    table = Table("token", title="where the gain comes from")
    for heading in ("of the tokens", "none", "retrieved", "gain over none", "of the gain"):
        table.add_column(heading, justify="right")
    rows = {NEIGHBORS_READ[name]: part for name, part in results["in_neighbors"].items()}
    runs = {f"  in a run of {name}": part for name, part in results["runs"].items()}
    first = next(iter(rows))
    for name, part in ({first: rows.pop(first)} | runs | rows).items():
        share = part["share_of_gain"]["none"]
        table.add_row(
            name,
            f"{part['tokens'] / results['tokens']:.1%}",
            *(_number(part["bits_per_byte"][reading]) for reading in ("none", "retrieved")),
            _number(part["gain"]["none"]),
            "-" if share is None else f"{share:.1%}",
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _large(value: float) -> str:
    return f"{value:,.1f}" if value < 1e6 else f"{value:.2e}"


def _interval(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"
