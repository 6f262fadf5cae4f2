"""From a function to a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from retrolit.cli.parser import run


@dataclass
class Size:
    """How large."""

    width: int = 4
    """Width in columns."""


calls: list[tuple] = []


def build(path: str, size: Size, times: int = 1) -> None:
    """Build it.

    Args:
        path: where.
        size: how large.
        times: how often.
    """
    calls.append((path, size, times))


@pytest.fixture
def module() -> ModuleType:
    calls.clear()
    module = ModuleType("build")
    module.build = build  # pyright: ignore[reportAttributeAccessIssue]
    return module


def test_required_parameters_are_positional(module: ModuleType) -> None:
    assert run(module, "build", ["here", "--size.width", "7", "--times", "2"]) == 0
    assert calls == [("here", Size(7), 2)]


def test_an_option_may_be_spelled_with_dashes(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def build(path: str, largest_width: int = 1, in_colour: bool = False, texts: list[str] | None = None) -> None:
        calls.append((path, largest_width, in_colour, texts))

    module.build = build  # pyright: ignore[reportAttributeAccessIssue]
    assert run(module, "build", ["a-b", "--largest-width=7", "--texts", "- x-y", "--in-colour"]) == 0
    assert run(module, "build", ["a-b", "--largest_width", "8", "--texts=--in-colour"]) == 0
    assert calls == [("a-b", 7, True, ["- x-y"]), ("a-b", 8, False, ["--in-colour"])]
    with pytest.raises(SystemExit):
        run(module, "build", ["a-b", "--largest-height", "7"])
    assert "unrecognized arguments: --largest-height" in capsys.readouterr().err.lower()


def test_a_file_gives_any_parameter(module: ModuleType, tmp_path: Path) -> None:
    recipe = tmp_path / "build.yaml"
    recipe.write_text("path: there\nsize: {width: 9}\n")
    assert run(module, "build", ["-c", str(recipe), "--times", "3"]) == 0
    assert calls == [("there", Size(9), 3)]


def test_help_shows_docstrings(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(module, "build", ["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "Build it." in out
    assert "how often" in out
    assert "Width in columns." in out


def test_a_mistyped_option_is_guessed(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(module, "build", ["here", "--size.widht", "7"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "did you mean --size.width?" in err
    assert len(err.splitlines()) == 2


def test_sub_verbs(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    del module.build  # pyright: ignore[reportAttributeAccessIssue]
    module.COMMANDS = {"house": build}  # pyright: ignore[reportAttributeAccessIssue]
    assert run(module, "build", []) == 0
    assert "house  Build it." in capsys.readouterr().out
    assert run(module, "build", ["huose"]) == 2
    assert "did you mean house?" in capsys.readouterr().err
    assert run(module, "build", ["zzz"]) == 2
    assert "the commands are house" in capsys.readouterr().err
    assert run(module, "build", ["house", "here"]) == 0
    assert calls == [("here", Size(4), 1)]


def test_a_verb_with_sub_verbs_may_be_one_itself(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    got = []

    def tear(*, down: bool = False) -> None:
        got.append(down)

    module.COMMANDS = {"tear": tear}  # pyright: ignore[reportAttributeAccessIssue]
    assert run(module, "build", ["tear", "--down"]) == 0
    assert got == [True]
    assert run(module, "build", ["here", "--times", "2"]) == 0
    assert calls == [("here", Size(4), 2)]
    assert run(module, "build", ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "tear" in shown
    assert "--size.width" in shown


def test_names_in_place_of_an_option_are_several() -> None:
    got = []

    def show(folders: tuple[str, ...], *, kinds: tuple[str, ...] | None = None) -> None:
        got.append((list(folders), kinds and list(kinds)))

    module = ModuleType("show")
    module.show = show  # pyright: ignore[reportAttributeAccessIssue]
    run(module, "show", ["a", "12", "--kinds", "x", "y"])
    with pytest.raises(SystemExit):
        run(module, "show", [])
    assert got == [(["a", "12"], ["x", "y"])]


def test_texts_are_taken_as_typed_and_may_be_repeated() -> None:
    got = []

    def say(*, text: list[str] | None = None) -> None:
        got.append(text)

    module = ModuleType("say")
    module.say = say  # pyright: ignore[reportAttributeAccessIssue]
    for texts in (["- a", "null", "[1]"], [], ["12"]):
        run(module, "say", [argument for text in texts for argument in ("--text", text)])
    assert got == [["- a", "null", "[1]"], None, ["12"]]


def test_a_switch_may_be_named_alone() -> None:
    got = []

    def look(folder: str, *, closely: bool = False) -> None:
        got.append((folder, closely))

    module = ModuleType("look")
    module.look = look  # pyright: ignore[reportAttributeAccessIssue]
    for options in ([], ["--closely"], ["--closely", "true"], ["--closely=false"]):
        run(module, "look", ["here", *options])
    assert got == [("here", False), ("here", True), ("here", True), ("here", False)]
