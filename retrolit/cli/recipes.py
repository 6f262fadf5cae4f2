"""The recipes that come with retrolit: list, show, copy."""

from __future__ import annotations

import shutil
from pathlib import Path


def list_recipes() -> None:
    """List every recipe with the first line of its header."""
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        first = (recipe_folder() / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
        print(f"{name:{width}}  {first.removeprefix('#').strip()}")


def show(name: str) -> None:
    """Print one recipe.

    Args:
        name: as `retrolit recipes list` prints it, e.g. tiny/gpt.
    """
    print(_find(name).read_text(encoding="utf-8"), end="")


def copy(name: str, destination: str = ".") -> None:
    """Copy one recipe, or a folder of recipes, to edit it.

    Args:
        name: a recipe (tiny/gpt) or a folder of them (tiny).
        destination: an existing folder, or the new file's or folder's name.
    """
    source = recipe_folder() / name if (recipe_folder() / name).is_dir() else _find(name)
    target = Path(destination) / source.name if Path(destination).is_dir() else Path(destination)
    if target.exists():
        raise FileExistsError(f"{target} exists already; name another destination")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    print(f"copied to {target}")


COMMANDS = {"list": list_recipes, "show": show, "copy": copy}


def recipe_folder() -> Path:
    """Where the recipes lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Every recipe, as folder/name without .yaml."""
    folder = recipe_folder()
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def _find(name: str) -> Path:
    names = recipe_names()
    name = name.removesuffix(".yaml").removeprefix("recipes/")
    if name not in names:
        raise ValueError(f"no recipe {name!r}; the recipes are {', '.join(names)}")
    return recipe_folder() / f"{name}.yaml"
