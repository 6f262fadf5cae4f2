"""The commands of README and pages are ones that can be typed: verbs, options and recipes exist."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from retrolit.cli.main import TOOL_VERBS, TRAINER_VERBS
from retrolit.cli.parser import Parser
from retrolit.cli.recipes import recipe_folder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPE = re.compile(r"recipes/[\w./-]+\.yaml")


def commands(page: Path) -> list[list[str]]:
    """The words of every `retrolit ...` line in the page's blocks of shell, and of no language."""
    found = []
    for language, block in re.findall(
        r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        for line in block.replace("\\\n", " ").splitlines() if language in ("", "sh") else ():
            match = re.match(r"(?:.*[|/] ?)?retrolit (.*)", re.split(r"(?:^|\s)#", line)[0])
            if match:
                found.append(shlex.split(match[1].split(" > ")[0].split(" | ")[0]))
    return found


def options_of(verb: str, words: list[str]) -> set[str]:
    """The options of a tool's verb, or of the sub-verb that the words begin with."""
    module = import_module(f"retrolit.cli.{verb}")
    function = getattr(module, "COMMANDS", {}).get(words[0] if words else "") or getattr(module, verb)
    parser = Parser(prog=verb)
    parser.add_argument("-c", "--config", action="config")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    return {option for action in parser._actions for option in action.option_strings} | {"--help"}


def test_pages_have_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_pages_commands_can_be_typed(page: Path) -> None:
    wrong = []
    known = [path.relative_to(recipe_folder().parent).as_posix() for path in recipe_folder().rglob("*.yaml")]
    for verb, *words in commands(page):
        if verb.startswith("-") or verb.endswith(":"):  # what an error message begins with
            continue
        if verb not in TRAINER_VERBS | TOOL_VERBS:
            wrong.append(f"no verb {verb}")
        elif verb in TOOL_VERBS and verb != "plan":  # those of the trainer are Lightning's, and checked where they run
            given = {word.split("=")[0] for word in words if word.startswith("-") and not word.lstrip("-").isdigit()}
            options = options_of(verb, words)
            known_options = options | {option.replace("_", "-") for option in options}
            wrong += [f"{verb} has no {option}" for option in given if option.split(".")[0] not in known_options]
        wrong += [f"no {word}" for word in words if RECIPE.fullmatch(word) and word not in known]
    assert not wrong
