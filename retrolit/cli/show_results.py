"""The results of a split as tables."""

from __future__ import annotations

from typing import Any

from rich import table as rich_table
from rich.console import Console

from retrolit.reports.tables import Table, curve_table, readings_table, token_table


def show_results(console: Console, split: str, results: dict[str, Any]) -> None:
    """Print what results.json holds of one split; see docs/evaluation.md."""
    console.print(
        f"{split}: {results['documents']:,} documents, {results['tokens']:,} tokens, {results['bytes']:,.0f} bytes",
        style="bold",
    )
    leaked = results["leakage"]["documents"]
    if leaked:
        console.print(
            f"LEAKAGE: {leaked:,} of these documents are training or database documents too: "
            f"{results['leakage']['named'][0]}",
            style="bold red",
            markup=False,
        )
    console.print(_shown(readings_table(results)))
    if "overlap_curve" in results:
        console.print(_shown(curve_table(results)))
        console.print(_shown(token_table(results)))


def _shown(table: Table) -> rich_table.Table:
    first, *others = table.head
    shown = rich_table.Table(first, title=table.title)
    for heading in others:
        shown.add_column(heading, justify="right")
    for row in table.rows:
        shown.add_row(*row)
    return shown
