"""The report: which sections, in which order, and a sentence in the place of what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrolit.reports.curves import control_plots, gain_plots, loss_plots, overlap_plots, speed_plots
from retrolit.reports.load import CONFIG, METRICS, MODEL, RUN_FILE, Evaluation, Run, load
from retrolit.reports.neighbor_page import Found, Shown
from retrolit.reports.page import Block, Folded, Heading, Page, Section, Text, to_html, to_markdown
from retrolit.reports.tables import (
    curve_table,
    facts_table,
    index_table,
    leakage_table,
    readings_table,
    replies_table,
    speed_table,
    split_table,
    task_table,
    token_table,
)
from retrolit.storage import atomic_write

HTML, MARKDOWN = "report.html", "report.md"
MOST_ANSWERS = 4
"""Answers of a task that are shown: half of them the best, half the worst."""
MOST_SOURCES = 8
"""Sources that are named under an answer."""

ABOUT_GAIN = (
    "Bits per byte that the retrieved neighbors save at each validation; above zero they help. A gain over no "
    "neighbors may be habit; one over random neighbors comes from reading. One over the GPT that the Retro was fitted "
    "to comes from the longer training too: compare with a GPT that went on for as long."
)
ABOUT_STEPS = (
    "Forward and backward passes of a Retro that reads neighbors, measured in the steps that are logged; what is no "
    "other part's is the decoder's."
)
ABOUT_NEIGHBORS = (
    "Under each heading stand the chunk that was looked up and the one that was predicted with its neighbors, then "
    "these. Marked are words that a chunk shares with its neighbors, and words of a continuation that do come next."
)


def write_report(folders: Sequence[str | Path], output: str | Path | None = None) -> list[Path]:
    """Write report.html and report.md about runs and evaluations; their paths.

    Args:
        folders: Of runs (`retrolit fit`) and of evaluations (`retrolit evaluate`), in the order of the columns.
        output: Where the two files go; when not given, the innermost folder that holds all of `folders`.

    Raises:
        FileNotFoundError: a folder is neither.
        ValueError: a file in one is damaged.
    """
    runs, evaluations = load(folders)
    place = Path(output or os.path.commonpath([Path(folder).resolve() for folder in folders]))
    page = make_page(runs, evaluations)
    paths = [place / HTML, place / MARKDOWN]
    for path, text in zip(paths, (to_html(page), to_markdown(page)), strict=True):
        with atomic_write(path) as file:
            file.write(text.encode(errors="replace"))
    return paths


def make_page(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Page:
    """All sections; those about runs only where there are some."""
    sections = []
    if runs:
        sections = [
            Section("What was run", _what(runs)),
            Section("Training", _training(runs)),
            Section("Retrieval gain over time", _gain(runs)),
            Section("Speed", _speed(runs)),
            Section("Index", _index(runs)),
            Section("Evaluation by perplexity", _perplexity(runs)),
            Section("Best and worst neighbors", _neighbors(runs)),
        ]
    sections += [
        Section("Evaluation by tasks", _tasks(runs, evaluations)),
        Section("Samples", _samples(runs, evaluations)),
    ]
    title = ", ".join([run.name for run in runs] or [evaluation.name for evaluation in evaluations])
    return Page(f"Report on {title}", sections)


def _what(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = [facts_table(runs)]
    for run in runs:
        if not run.surroundings:
            blocks.append(
                _missing(f"{run.name}: there is no {RUN_FILE}, which names the machine and the data's fingerprints; "
                         "training writes it: retrolit fit")
            )  # fmt: skip
        if run.config_text:
            blocks.append(Folded(f"All settings of {run.name} ({CONFIG})", run.config_text))
        else:
            blocks.append(_missing(f"{run.name}: there is no {CONFIG}; training writes it: retrolit fit"))
    return blocks


def _training(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = [*loss_plots(runs)]
    for run in runs:
        if not run.curve("train/loss"):
            blocks.append(_missing(f"{run.name}: no step is logged in {METRICS}; go on with: {_again('fit', run)}"))
        elif not run.curve("val/loss"):
            blocks.append(_missing(f"{run.name}: not validated yet; trainer.val_check_interval says how often"))
    return blocks


def _gain(runs: Sequence[Run]) -> list[Block]:
    plots = gain_plots(runs)
    if not plots:
        sentence = "No validation with neighbors is logged; a Retro makes one every trainer.val_check_interval steps"
        return [_missing(f"{sentence}: retrolit fit with a RetroModule.")]
    return [Text(ABOUT_GAIN), *plots]


def _speed(runs: Sequence[Run]) -> list[Block]:
    table = speed_table(runs)
    if not table.rows:
        return [_missing("No speed is logged; training logs it: retrolit fit.")]
    split = split_table(runs)
    return [table, *([split, Text(ABOUT_STEPS)] if split.rows else []), *speed_plots(runs)]


def _index(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = []
    known = [run for run in runs if run.prepared is not None and not run.on_conversations]
    for run in {run.prepared: run for run in known}.values():
        if run.cards:
            blocks.append(index_table(run))
        else:
            blocks.append(
                _missing(f"{run.prepared}: no index here; make one with: retrolit prepare -c data.yaml, with a "
                         "`retrieval:` part in it (paths count from the folder that this report was asked for in)")
            )  # fmt: skip
        if run.leakage:
            blocks.append(leakage_table(run))
        else:
            blocks.append(
                _missing(f"{run.prepared}: no leakage report; make one with: retrolit report leakage -c data.yaml")
            )
    return blocks or [_missing("The settings name no prepared text.")]


def _perplexity(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = []
    for run in runs:
        if run.on_conversations:
            sentence = "tuned on conversations, which are not evaluated by documents; its answers are, by tasks"
            blocks.append(_missing(f"{run.name}: {sentence}: retrolit evaluate {run.folder / MODEL}"))
        elif not run.results:
            blocks.append(_missing(f"{run.name}: not evaluated; make it with: {_again('test', run)}"))
        for split, results in run.results.items():
            blocks += [Heading(f"{run.name}, {split}"), *_split(results)]
    replies = replies_table([run for run in runs if run.on_conversations])
    return [*blocks, replies] if replies.rows else blocks


def _split(results: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = [
        Text(f"{results['documents']:,} documents, {results['tokens']:,} tokens, {results['bytes']:,.0f} bytes. "
             f"Intervals hold the middle 95 % of {results['num_resamples']:,} resamples of the documents.")
    ]  # fmt: skip
    leaked = results["leakage"]["documents"]
    if leaked:
        named = results["leakage"]["named"][0]
        blocks.append(
            Text(f"LEAKAGE: {leaked:,} of these documents are in the training documents or the database too: {named}")
        )
    blocks.append(readings_table(results))
    if "gain" in results:
        blocks += [*control_plots(results), *overlap_plots(results), curve_table(results), token_table(results)]
    read = {name: value for name, value in results["data"].items() if isinstance(value, str)}
    weights = results["weights"]
    read |= {"weights": f"{weights['path']} ({weights['fingerprint']})"} if weights else {}
    return [*blocks, Folded("Fingerprints", "\n".join(f"{name}: {value}" for name, value in read.items()))]


def _neighbors(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = []
    for run in runs:
        for split, results in run.results.items():
            examples = results.get("neighbor_examples", {})
            for kind, told in (("best", "saved most"), ("worst", "cost most")):
                if examples.get(kind):
                    blocks.append(Heading(f"{run.name}, {split}: chunks whose neighbors {told}"))
                    blocks += [_shown(example) for example in examples[kind]]
    if not blocks:
        retro = next((run for run in runs if run.is_retro), None)
        command = "retrolit test" if retro is None else _again("test", retro)
        return [_missing(f"None are known; an evaluation of a Retro notes them: {command}")]
    return [Text(ABOUT_NEIGHBORS), *blocks]


def _shown(example: dict[str, Any]) -> Shown:
    found = [Found(one["distance"], one["source"], one["chunk"], one["continuation"]) for one in example["neighbors"]]
    saved = example["bits_saved"]
    title = f"{abs(saved):.1f} bits {'saved' if saved > 0 else 'lost'}: chunk {example['chunk']}, {example['source']}"
    return Shown(title, example["query"], example["text"], found)


def _tasks(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Block]:
    if evaluations:
        return [task_table([(_answerer(evaluation, runs), evaluation) for evaluation in evaluations])]
    name = runs[0].name
    return [
        _missing(f"No evaluation was given; make one with: retrolit evaluate {runs[0].folder / MODEL} --data FOLDER "
                 f"--output evaluations/{name}, and name its folder too: retrolit report {runs[0].folder} "
                 f"evaluations/{name}")
    ]  # fmt: skip


def _answerer(evaluation: Evaluation, runs: Sequence[Run]) -> str:
    """The evaluation's name, and the run whose model answered where it is one of these."""
    own = [run.name for run in runs if run.model.get("fingerprint") in evaluation.fingerprints]
    return f"{evaluation.name} ({own[0] if own else evaluation.model})"


def _samples(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Block]:
    blocks: list[Block] = []
    for run in runs:
        if run.samples:
            last = max(sample["step"] for sample in run.samples)
            alone = ", its decoder alone" if run.is_retro else ""
            blocks.append(Heading(f"{run.name}, after step {last:,}{alone}"))
            blocks += [
                Folded(f"after {sample['prompt']!r}", sample["prompt"] + sample["text"], open=True)
                for sample in run.samples
                if sample["step"] == last
            ]
        else:
            blocks.append(_missing(f"{run.name}: no samples; training writes them after each validation: retrolit fit"))
    for evaluation in evaluations:
        for task, answers in evaluation.answers.items():
            result = evaluation.tasks[task]
            score = next(iter(result["published"]), "f1" if "f1" in result["scores"] else next(iter(result["scores"])))
            blocks.append(Heading(f"{evaluation.name}, {result['title']}: best and worst answers by {score}"))
            ranked = sorted(answers, key=lambda answer: -answer.get(score, 0.0))
            half = MOST_ANSWERS // 2
            chosen = ranked if len(ranked) <= MOST_ANSWERS else [*ranked[:half], *ranked[-half:]]
            blocks += [_answer(answer, score) for answer in chosen]
    return blocks


def _answer(answer: dict[str, Any], score: str) -> Folded:
    lines = [_labelled("asked", answer["question"]), _labelled("answered", answer["prediction"])]
    lines += [_labelled("reference", reference) for reference in answer["answers"][:3]]
    lines += [_labelled("passage", source) for source in answer["contexts"][:MOST_SOURCES]]
    lines += [
        _labelled("neighbor", f"{source} (read from token {chunk['end']})")
        for chunk in answer["neighbors"]
        for source in chunk["sources"]
    ][:MOST_SOURCES]
    value = f" ({score} {answer[score]:.2f})" if score in answer else ""
    return Folded(f"{answer['id']}{value}", "\n".join(lines), open=True)


def _labelled(label: str, text: str) -> str:
    """The text behind its label, all its lines below each other."""
    return f"{label:<11}" + text.replace("\n", "\n" + " " * 11)


def _again(verb: str, run: Run) -> str:
    return f"retrolit {verb} -c {run.folder / CONFIG}"


def _missing(sentence: str) -> Text:
    return Text(sentence, missing=True)
