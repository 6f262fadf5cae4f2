"""All stages of a recipe folder, one after another: what its run.yaml lists, each a command that could be typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

from retrolit.cli.recipes import recipe_folder
from retrolit.storage import atomic_folder, fingerprint, read_json, write_json
from retrolit.tokens.yaml_fields import checked_fields

PLAN, STAGES, RECIPES = "run.yaml", "stages.json", "recipes"
SOURCE = re.compile(r"^(\s*source:\s*).*$", re.MULTILINE)


@dataclass
class Stage:
    """One line of a run.yaml's `stages`."""

    does: str
    """For people: what comes of it."""

    command: str
    """What stands behind `retrolit`, started in the run's folder."""

    paper: str = ""
    """Where the paper does so."""

    asks: str = ""
    """A file of questions, made by an earlier stage: the first one is typed into the command's standard input."""

    says: str = ""
    """Typed after that."""

    def typed(self, folder: Path) -> str | None:
        """What is typed; None where that is nothing."""
        first = ""
        if self.asks:
            with open(folder / self.asks, encoding="utf-8") as file:
                if line := file.readline():
                    first = " ".join(json.loads(line)["question"].split()) + "\n"
        return first + self.says or None


@dataclass
class Plan:
    """A run.yaml. Raises ValueError where fields are missing or unknown."""

    stages: list[Stage]
    corpus: str = ""
    """The recipe beside it whose first `source` is the text that everything is made of."""

    next: list[str] = field(default_factory=list)
    """What to try afterwards: lines for people; FOLDER in them is where the run went."""

    @classmethod
    def load(cls, path: Path) -> Plan:
        content = checked_fields(cls, yaml.safe_load(path.read_text(encoding="utf-8")), str(path), "a run")
        stages = content["stages"]
        if not isinstance(stages, list) or not stages:
            raise ValueError(f"{path}: stages: expected a list of at least one, got {stages!r}")
        content["stages"] = [
            Stage(**checked_fields(Stage, stage, f"{path}: stage {number}", "a stage"))
            for number, stage in enumerate(stages, start=1)
        ]
        return cls(**content)


def run(name: str, *, folder: str | None = None, corpus: str | None = None) -> None:
    """Do all stages of a recipe folder that has a run.yaml, e.g. quickstart.

    The recipes are copied to FOLDER/recipes, and everything is made in FOLDER, by commands that can as well be typed
    there one by one. Started again, finished stages are left as they are and an interrupted one goes on.

    Args:
        name: a folder of recipes that come with retrolit, or a path to one of yours.
        folder: where all is made; the name's last part when not given.
        corpus: your own text, in place of the recipe's: a file or folder of .txt, .jsonl or .parquet.
    """
    source = next((path for path in (recipe_folder() / name, Path(name)) if (path / PLAN).is_file()), None)
    if source is None:
        raise FileNotFoundError(f"{name}: expected a folder of recipes with a {PLAN}, e.g. {', '.join(run_names())}")
    target = Path(folder or source.resolve().name)
    recipes = target / RECIPES
    _copy_recipes(source, recipes, corpus)
    plan = Plan.load(recipes / PLAN)
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    made_from = fingerprint([(path.name, path.read_text(encoding="utf-8")) for path in _files_in(recipes)])
    finished = read_json(target / STAGES) if (target / STAGES).exists() else {}
    begin = time.monotonic()
    for number, stage in enumerate(plan.stages, start=1):
        head = (f"[{number}/{len(plan.stages)}] {stage.does}", "bold")
        console.print(Text.assemble(head, f"  {stage.paper}" if stage.paper else ""))
        console.print(f"retrolit {stage.command}", style="dim", markup=False)
        key = fingerprint([stage.command, stage.asks, stage.says, made_from])
        if key in finished:
            console.print(f"done before, in {finished[key]['seconds']:.0f} s\n", style="dim")
            continue
        typed = stage.typed(target)
        for line in (typed or "").splitlines():
            console.print(f"> {line}", markup=False)
        started = time.monotonic()
        command = [sys.executable, "-m", "retrolit", *shlex.split(stage.command)]
        done = subprocess.run(command, cwd=target, input=typed, text=True, check=False)
        if done.returncode:
            raise ValueError(
                f"stage {number} ({stage.does}) ended with exit code {done.returncode}; what it said stands above. "
                "What is finished is kept: the same command goes on from there"
            )
        finished[key] = {"command": stage.command, "seconds": round(time.monotonic() - started, 1)}
        write_json(target / STAGES, finished)
        console.print()
    minutes, seconds = divmod(round(time.monotonic() - begin), 60)
    console.print(Text(f"All of {name} in {minutes} min {seconds} s; everything lies in {target}", style="bold"))
    for line in plan.next:
        console.print("  " + line.replace("FOLDER", str(target)), markup=False)


def run_names() -> list[str]:
    """The folders of recipes that have a run.yaml."""
    return sorted(path.parent.name for path in recipe_folder().glob(f"*/{PLAN}"))


def _copy_recipes(source: Path, recipes: Path, corpus: str | None) -> None:
    """The recipes, their text replaced where `corpus` names another. Raises where older ones have another text."""
    plan = Plan.load(source / PLAN)
    if corpus is not None and not plan.corpus:
        raise ValueError(f"{source / PLAN}: names no recipe with a corpus, so --corpus has nothing to replace")
    if corpus is not None and not Path(corpus).exists():
        raise FileNotFoundError(f"--corpus {corpus}: expected a file or folder of text, there is none")
    text = None
    if corpus is not None:
        original = (source / plan.corpus).read_text(encoding="utf-8")
        named = json.dumps(str(Path(corpus).resolve()), ensure_ascii=False)
        text, replaced = SOURCE.subn(lambda match: match[1] + named, original, count=1)
        if not replaced:
            raise ValueError(f"{source / plan.corpus}: expected a line `source: ...` to replace, there is none")
    if recipes.exists():
        there = (recipes / plan.corpus).read_text(encoding="utf-8") if text is not None else None
        if there != text:
            raise ValueError(
                f"{recipes / plan.corpus}: is about another text than --corpus {corpus}; name another --folder, or "
                f"change the recipe there and leave --corpus out"
            )
        return
    recipes.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(recipes) as partial:
        for path in _files_in(source):
            shutil.copyfile(path, partial / path.name)
        if text is not None:
            (partial / plan.corpus).write_text(text, encoding="utf-8")


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
