"""A path in a data.yaml is found from wherever the command is started that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from retrolit.tokens.config import CorpusConfig
from retrolit.tokens.recipe_path import find, looking_beside_recipes


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From the text of a source in recipes/deep/data.yaml to what it is read as, started in tmp_path."""
    monkeypatch.chdir(tmp_path)
    Path("recipes/deep").mkdir(parents=True)
    for name in ("recipes/deep/beside.txt", "recipes/deep/both.txt", "both.txt", "here.txt", "recipes/up.txt"):
        Path(name).write_text(name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", action="config")
    parser.add_argument("--corpus", type=CorpusConfig)

    def read(source: str, recipe: str | Path = "recipes/deep/data.yaml") -> str:
        (tmp_path / "recipes/deep/data.yaml").write_text(f"corpus: {{ source: '{source}' }}")
        with looking_beside_recipes():
            settings = parser.parse_args(["-c", str(recipe)])
        found = parser.instantiate(settings).corpus.source
        assert f"source: {found}\n" in parser.dump(settings)
        return found

    return read


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("beside.txt", "recipes/deep/beside.txt"),
        ("*de.txt", "recipes/deep/*de.txt"),
        ("../up.txt", "recipes/up.txt"),
        ("both.txt", "both.txt"),
        ("here.txt", "here.txt"),
        ("recipes/deep/beside.txt", "recipes/deep/beside.txt"),
        ("nowhere.txt", "nowhere.txt"),
        ("hf:name", "hf:name"),
        ("python-docs", "python-docs"),
    ],
)
def test_here_first_then_beside_the_recipe(source: str, found: str, sources) -> None:
    assert sources(source) == found


def test_from_another_folder_it_is_named_in_full(sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("else[where]").mkdir()
    monkeypatch.chdir(tmp_path / "else[where]")
    recipe = tmp_path / "recipes/deep/data.yaml"
    assert sources("beside.txt", recipe) == str(recipe.with_name("beside.txt"))
    Path("beside.txt").touch()
    assert sources("beside.txt", recipe) == "beside.txt"


def test_an_absolute_path_stays_and_python_reads_what_it_is_given(sources, tmp_path: Path) -> None:
    assert sources(str(tmp_path / "recipes/deep/beside.txt")) == str(tmp_path / "recipes/deep/beside.txt")
    assert find("beside.txt") == "beside.txt"
    assert CorpusConfig("beside.txt").source == "beside.txt"


def test_a_number_is_no_path(sources) -> None:
    with pytest.raises(ValueError, match="expected text, got int"):
        find(3)  # pyright: ignore[reportArgumentType]
