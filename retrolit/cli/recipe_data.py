"""The data section of a training recipe, alone."""

from __future__ import annotations

from argparse import ArgumentError
from contextlib import chdir
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from retrolit.tokens.recipe_path import looking_beside_recipes
from retrolit.training import TrainingData


def read_recipe_data(recipe: str) -> TrainingData:
    """The prepared data that a recipe trains on; what is missing is prepared now.

    Raises FileNotFoundError, and ValueError for a file without a data section that can be read.
    """
    if not Path(recipe).is_file():
        raise FileNotFoundError(f"{recipe}: there is no such recipe")
    content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(f"{recipe}: expected a training recipe with a section data, got none")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TrainingData, "data", required=True)
    try:
        # In the recipe's folder: a data.yaml is named relative to it.
        with looking_beside_recipes(), chdir(Path(recipe).parent):
            settings = parser.parse_string(yaml.safe_dump({"data": content["data"]}))
    except ArgumentError as error:
        raise ValueError(f"{recipe}: {error}") from error
    data = parser.instantiate(settings).data
    data.prepare_data()
    data.setup("inspect")
    return data
