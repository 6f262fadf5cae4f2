"""The parser of the trainer's verbs: one line in place of jsonargparse's pages."""

from __future__ import annotations

import argparse
import difflib
import re
from importlib import import_module
from inspect import isabstract
from typing import Any, NoReturn

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from retrolit.tokens.recipe_path import looking_beside_recipes

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class CommandLineMistake(Exception):
    """A mistake in a command line or a recipe: "SETTING: what is wrong with it"."""


class TrainerParser(LightningArgumentParser):
    """Raises CommandLineMistake where jsonargparse would print its usage and exit.

    The arguments of a class (model, data) are read by a parser of their own, inside that of the verb; its mistake
    arrives here as the cause of the outer one and is told in its place.
    """

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's; paths in files are looked for beside these files too."""
        with looking_beside_recipes():
            return super().parse_args(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and what was probably meant."""
        setting = re.match(r'Parser key "([\w.]+)":\s*', message)
        prefix = f"{setting.group(1)}" if setting else ""
        inner = _inner_mistake(ex)
        if inner is not None:
            raise CommandLineMistake(f"{prefix}.{inner}" if prefix else str(inner)) from None
        unknown = re.search(r"unrecognized arguments: --([\w.+-]+)|does not accept option '([\w.+-]+)'", message)
        if unknown:
            name = unknown.group(1) or unknown.group(2)
            raise CommandLineMistake(f"{name}: there is no such setting{self._meant(name)}") from None
        base = re.search(r"Subtypes: \[<class '([\w.]+)'>", message)
        no_class = re.search(r"Expected a dot import path string: (\S+)", message)
        if base and no_class:
            known = ", ".join(_class_and_subclasses(base.group(1)))
            raise CommandLineMistake(
                f"{prefix}: there is no class {no_class.group(1)}; the classes are {known}"
            ) from None
        text = " ".join(line.strip() for line in message[setting.end() if setting else 0 :].splitlines())
        raise CommandLineMistake(f"{prefix}: {text}" if prefix else text) from None

    def _meant(self, name: str) -> str:
        options = _options(self)
        close = difflib.get_close_matches(name, options, n=1)
        if not close:  # where a group of a recipe is read, only the end of the name is known
            leaves = {option.rsplit(".", 1)[-1]: option for option in options}
            close = [leaves[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=1)]
        return f"; did you mean {close[0]}?" if close else ""


def _inner_mistake(error: BaseException | None) -> CommandLineMistake | None:
    while error is not None and not isinstance(error, CommandLineMistake):
        error = error.__cause__ or error.__context__
    return error


def _options(parser: argparse.ArgumentParser) -> list[str]:
    options = []
    for action in parser._actions:
        options += [option.removeprefix("--") for option in action.option_strings]
        if isinstance(action.choices, dict):  # the verbs, each with a parser
            options += [option for verb in action.choices.values() for option in _options(verb)]
    return options


def _class_and_subclasses(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    found, waiting = [], [getattr(import_module(module), name)]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return sorted(cls.__name__ for cls in found if not isabstract(cls))
