"""retrolit recipes list | show | copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrolit.cli import recipes


def test_list_shows_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipes.list_recipes()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(recipes.recipe_folder().rglob("*.yaml"))) > 0
    assert any(line.startswith("tiny/gpt ") for line in lines)


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    recipes.show("tiny/gpt")
    assert capsys.readouterr().out == (recipes.recipe_folder() / "tiny/gpt.yaml").read_text()


def test_copy_a_file_and_a_folder(tmp_path: Path) -> None:
    recipes.copy("tiny/gpt", str(tmp_path))
    assert (tmp_path / "gpt.yaml").read_text() == (recipes.recipe_folder() / "tiny/gpt.yaml").read_text()
    recipes.copy("tiny", str(tmp_path / "mine"))
    assert (tmp_path / "mine/gpt.yaml").exists()


def test_copy_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "gpt.yaml").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already; name another destination"):
        recipes.copy("tiny/gpt", str(tmp_path))
    assert (tmp_path / "gpt.yaml").read_text() == "mine"


def test_an_unknown_recipe_gets_the_list() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'huge'; the recipes are .*tiny/gpt"):
        recipes.show("huge")
