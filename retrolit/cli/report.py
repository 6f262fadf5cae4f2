"""Reports: what came of runs, and whether a prepared corpus can be evaluated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from retrolit.data.preparation import DataConfig, prepare
from retrolit.evaluation.leakage_report import leakage_report
from retrolit.reports import write_report
from retrolit.retrieval.prepare import RetrievalConfig
from retrolit.storage import write_json
from retrolit.tokens.config import TokensConfig
from retrolit.tokens.progress import visible

LEAKAGE_FILE = "leakage.json"
SHOWN = 5
"""Documents that are named on the terminal; the file names all."""


def report(folders: tuple[str, ...], *, output: str | None = None) -> None:
    """Write report.html and report.md about runs: settings, curves, evaluation, neighbors, answers.

    The page needs no network and no script. What a run lacks is left out, with the command that makes it.

    Args:
        folders: folders of runs (retrolit fit), and of evaluations (retrolit evaluate).
        output: where the files go; when not given, the innermost folder that holds all of them.
    """
    for path in write_report(folders, output):
        print(path)


def leakage(
    folder: str, tokens: TokensConfig, retrieval: RetrievalConfig | None = None, threshold: float = 0.8
) -> None:
    """Tell what the evaluation splits share with the training documents, from which the database is made.

    Copies in two splits, near duplicates of whole documents, and how much of each chunk its neighbors hold; written to
    leakage.json in the prepared folder. Usually: retrolit report leakage -c data.yaml

    Args:
        folder: where the artifacts are, or go.
        tokens: corpora, tokenizer and splits.
        retrieval: chunk database, index and neighbor tables; without it nothing is said about neighbors.
        threshold: Jaccard similarity of the 13-grams from which two documents count as near duplicates.
    """
    prepared = prepare(DataConfig(folder, tokens, retrieval), visible)
    report = leakage_report(prepared, threshold, visible)
    path = Path(folder) / LEAKAGE_FILE
    write_json(path, report)
    _show(Console(), report)
    print(f"wrote {path}")


COMMANDS = {"leakage": leakage}


def _show(console: Console, report: dict[str, Any]) -> None:
    console.print(", ".join(f"{split}: {count:,} documents" for split, count in report["documents"].items()))
    for pair, copies in report["disjoint"].items():
        verdict = "none" if not copies else f"{len(copies):,} DOCUMENTS ON BOTH SIDES"
        console.print(f"copies of {pair}: {verdict}", style="bold red" if copies else "green")
        for copy in copies[:SHOWN]:
            console.print(f"  {_pair(copy)}", markup=False)
    for split, twins in report["near_duplicates"].items():
        console.print(
            f"{split} documents whose 13-grams resemble a training or database document's "
            f"(Jaccard >= {report['threshold']}): {len(twins):,} of {report['documents'][split]:,}",
            style="yellow" if twins else "green",
        )
        for twin in sorted(twins, key=lambda twin: -twin["similarity"])[:SHOWN]:
            console.print(f"  {twin['similarity']:.2f}  {_pair(twin)}", markup=False)
    for split, histogram in report["neighbor_overlap"].items():
        console.print(_histogram(split, histogram))


def _pair(pair: dict[str, Any]) -> str:
    ours, theirs = f"{pair['source']} of {pair['corpus']}", f"{pair['training_source']} of {pair['training_corpus']}"
    return f"{ours}  ~  {theirs}"


def _histogram(split: str, histogram: list[dict[str, Any]]) -> Table:
    table = Table("overlap", title=f"{split} chunks, by their overlap with their 10 nearest neighbors")
    table.add_column("chunks", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    total = max(1, sum(bin["chunks"] for bin in histogram))
    before = None
    for bin in histogram:
        name = "none" if before is None else f"{100 * before:g} - {100 * bin['at_most']:g} %"
        share = bin["chunks"] / total
        table.add_row(name, f"{bin['chunks']:,}", f"{share:.1%}", "█" * round(40 * share))
        before = bin["at_most"]
    return table
