"""What retrieval is worth on real text: a GPT and a Retro with the same decoder, data and steps, by seed.

    python -m benchmarks.real_text [--corpora wikitext textbooks] [--seeds 1 2] [--plot FILE] [--fit OPTIONS ...]

Trains the recipes recipes/real-text/{gpt,retro}-{wikitext,textbooks}.yaml with each seed into runs/, unless that is
done, tests each on the first batches of its test split, and prints two tables in Markdown: bits per byte of every
reading, and the gain by the overlap of a chunk with its neighbors. The texts lie in corpora/ in the current
directory, as recipes/real-text/data-*.yaml say. One core takes about half an hour a seed and corpus; a run that was
stopped goes on.
--fit takes options for every fit, at the end of the line: --fit --trainer.precision 32-true
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from retrolit.evaluation.results_file import read_results

RECIPES = Path(__file__).parents[1] / "recipes/real-text"
CORPORA = ("wikitext", "textbooks")


def measure(model: str, corpus: str, seed: int, *, batches: int, options: list[str]) -> dict[str, Any]:
    """The test results of one run, which is trained and tested when it has not been."""
    run = Path("runs") / f"{model}-{corpus}-{seed}"
    if not (run / "model").exists():
        chosen = ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.default_root_dir", str(run)]
        retrolit("fit", "-c", str(RECIPES / f"{model}-{corpus}.yaml"), *chosen, *options)
    if "test" not in read_results(run):
        retrolit("test", "-c", str(run / "config.yaml"), "--trainer.limit_test_batches", str(batches))
    return read_results(run)["test"]


def retrolit(*arguments: str) -> None:
    """Run the command line in a process of its own."""
    subprocess.run([sys.executable, "-m", "retrolit", *arguments], check=True)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def readings(name: str, gpt: dict[str, Any], retro: dict[str, Any]) -> list[str]:
    """Bits per byte of the GPT and of the Retro's readings, and what retrieved neighbors save over others."""
    numbers = [gpt["bits_per_byte"]["gpt"], *(retro["bits_per_byte"][reading] for reading in ("none", "random"))]
    row = [name, *(f"{number:.4f}" for number in (*numbers, retro["bits_per_byte"]["retrieved"]))]
    return row + [gain(retro, other) for other in ("none", "random")]


def by_overlap(name: str, retro: dict[str, Any]) -> Iterator[list[str]]:
    """What retrieved neighbors save, of chunks that overlap with theirs by at most so much."""
    for point in retro["overlap_curve"]:
        share = point["bytes"] / retro["bytes"]
        yield [name, f"{point['at_most']:.1%}", f"{share:.0%}", gain(point, "none"), gain(point, "random")]


def plot(corpora: list[str], seeds: list[int], path: Path) -> None:
    """Draw the validations of all runs: bits per byte of the GPT, and of the Retro with each kind of neighbors."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(corpora), figsize=(5 * len(corpora), 4), layout="constrained", squeeze=False)
    lines = {
        "GPT": ("gpt", ""),
        "Retro, no neighbors": ("retro", "_none"),
        "Retro, random neighbors": ("retro", "_random"),
        "Retro, retrieved neighbors": ("retro", ""),
    }
    for corpus, panel in zip(corpora, panels[0], strict=True):
        for seed in seeds:
            for number, (label, (model, reading)) in enumerate(lines.items()):
                rows = map(json.loads, (Path("runs") / f"{model}-{corpus}-{seed}/metrics.jsonl").open())
                points = [(row["step"], row[name]) for row in rows if (name := f"val/bits_per_byte{reading}") in row]
                style = "-" if seed == seeds[0] else "--"
                panel.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label if style == "-" else None)
        panel.set(title=corpus, xlabel="optimizer steps", ylabel="bits per byte")
    panels[0][0].legend()
    figure.savefig(path)


def gain(part: dict[str, Any], other: str) -> str:
    """Bits per byte saved over this reading, with the interval that holds it with 95 %."""
    value, interval = part["gain"][other], part["gain_interval"][other]
    if value is None:
        return "-"
    return f"{value:+.4f}" if interval is None else f"{value:+.4f} ({interval[0]:+.4f} … {interval[1]:+.4f})"


def main() -> None:
    """Trains, tests, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", type=int, default=40, help="of the test split that are read, of 8 x 256 tokens")
    parser.add_argument("--plot", type=Path, help='draw the validations into this file (pip install "retrolit[plot]")')
    parser.add_argument("--fit", nargs=argparse.REMAINDER, default=[], help="options for every fit; the last ones")
    arguments = parser.parse_args()
    print(describe("lightning"), flush=True)
    whole, curve = [], []
    for corpus in arguments.corpora:
        for seed in arguments.seeds:
            gpt, retro = (
                measure(model, corpus, seed, batches=arguments.batches, options=arguments.fit)
                for model in ("gpt", "retro")
            )
            name = f"{corpus}, seed {seed}"
            whole.append(readings(name, gpt, retro))
            curve.extend(by_overlap(name, retro))
    heads = ["", "GPT", "Retro, none", "random", "retrieved", "gain over none (95 %)", "over random (95 %)"]
    print("\n" + table(heads, whole))
    print("\n" + table(["", "overlap at most", "of the text", "gain over none (95 %)", "over random (95 %)"], curve))
    if arguments.plot is not None:
        plot(arguments.corpora, arguments.seeds, arguments.plot)


if __name__ == "__main__":
    main()
