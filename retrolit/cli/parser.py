"""From a plain typed function to a command: its parameters are the options, its docstring is the help."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn, get_args

from jsonargparse import ArgumentParser, set_parsing_settings

from retrolit.tokens.recipe_path import looking_beside_recipes

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """A parser whose errors fit on two lines and name the option that was probably meant."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, but an option that takes texts takes each as it is typed, and is repeated for several.

        Otherwise "- a", "[1]" or "null" would be read as YAML. Names (tuple[str, ...]) follow one option. A switch may
        be named alone: --it is --it true.
        """
        if kwargs.get("type") is bool and args[0].startswith("-"):
            kwargs |= {"nargs": "?", "const": True}
        typehint = getattr(kwargs.get("action"), "_typehint", None)
        if list[str] in (typehint, *get_args(typehint)):
            kwargs = {name: kwargs.get(name) for name in ("default", "help")} | {"action": "append", "metavar": "TEXT"}
            args = args[:1]
        elif tuple[str, ...] in (typehint, *get_args(typehint)):  # names, several behind one option, or in its place
            kept = ("default", "help") if args[0].startswith("-") else ("help",)
            kwargs = {name: kwargs.get(name) for name in kept} | {"nargs": "+", "metavar": "NAME"}
            args = args[:1]
        return super().add_argument(*args, **kwargs)

    def parse_args(self, args: Sequence[str], **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As jsonargparse's, but --an-option is --an_option too, and paths in files are also looked for beside these
        files."""
        options = set(_options(self))
        with looking_beside_recipes():
            return super().parse_args([_as_spelled(word, options) for word in args], **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"[Uu]nrecognized arguments: (--[\w.-]+)", message)
        if unknown:
            close = difflib.get_close_matches(unknown.group(1), _options(self), n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        sys.stderr.write(f"{self.prog}: {message.strip()}\n`{self.prog} --help` shows the options.\n")
        raise SystemExit(2)


def run(module: ModuleType, verb: str, argv: list[str]) -> int:
    """Call the verb's function with the arguments of this command line.

    The module has a function named like the verb, or `COMMANDS`: sub-verbs and their functions, or both: then the
    function is called where no sub-verb is named. Parameters without a default are positional; `-c FILE` gives any of
    them as YAML.
    """
    commands, own = getattr(module, "COMMANDS", None), getattr(module, verb, None)
    chosen = argv[0] if argv else "--help"
    if commands is None or (own is not None and chosen not in ("-h", "--help", *commands)):
        assert own is not None
        return _call(own, f"retrolit {verb}", argv)
    if chosen in ("-h", "--help"):
        width = max(map(len, commands))
        rows = [f"  {name:{width}}  {_first_line(function)}" for name, function in commands.items()]
        if own is not None:
            rows += ["", *_help_of(own, f"retrolit {verb}").splitlines()]
        print("\n".join([f"usage: retrolit {verb} COMMAND ...", "", *rows]))
        return 0
    if chosen not in commands:
        close = difflib.get_close_matches(chosen, commands, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(commands)}"
        print(f"retrolit {verb}: no command {chosen!r}; {hint}", file=sys.stderr)
        return 2
    return _call(commands[chosen], f"retrolit {verb} {chosen}", argv[1:])


def _call(function: Callable[..., None], prog: str, argv: list[str]) -> int:
    parser = Parser(prog=prog, description=_description(function))
    parser.add_argument("-c", "--config", action="config", help="a YAML file with any of the parameters below")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    settings = parser.parse_args(argv)
    try:
        arguments = parser.instantiate(settings)
    except ValueError as error:  # what a class of ours says about its arguments comes out alone
        cause = error
        while isinstance(cause.__cause__, ValueError):
            cause = cause.__cause__
        raise cause from None
    arguments.pop("config", None)
    function(**vars(arguments))
    return 0


def _help_of(function: Callable[..., None], prog: str) -> str:
    return _parser(function, prog).format_help()


def _parser(function: Callable[..., None], prog: str) -> Parser:
    parser = Parser(prog=prog, description=_description(function))
    parser.add_argument("-c", "--config", action="config", help="a YAML file with any of the parameters below")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    return parser


def _as_spelled(word: str, options: set[str]) -> str:
    """The word of a command line, with _ for - where only that makes it one of the options."""
    name, equals, value = word.partition("=")
    spelled = "--" + name[2:].replace("-", "_")
    return f"{spelled}{equals}{value}" if name.startswith("--") and name not in options and spelled in options else word


def _options(parser: ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _description(function: Callable[..., None]) -> str:
    """The docstring without its Args, which are shown beside the options."""
    return (inspect.getdoc(function) or "").split("\n\nArgs:\n", 1)[0]


def _first_line(function: Callable[..., None]) -> str:
    return (inspect.getdoc(function) or "").split("\n", 1)[0]
