"""Every recipe that comes with retrolit parses, says what it is for, and describes a model of the size it promises."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
import yaml

from retrolit.cli import fit
from retrolit.cli.main import main
from retrolit.cli.run import Plan
from retrolit.evaluation.task import load_task
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.tokens.chat_template import load_chat_template

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(RECIPES.rglob("*.yaml"))
DATA = [path for path in ALL if path.name.startswith("data")]
HARDWARE = [path for path in ALL if path.parent.name == "hardware"]
RUNS = [path for path in ALL if path.name == "run.yaml"]
TASKS = [path for path in ALL if path.name.startswith("task")]
TEMPLATES = [path for path in ALL if path.name.startswith("template")]
TRAINING = [path for path in ALL if path not in DATA + HARDWARE + RUNS + TASKS + TEMPLATES]

# Billions of parameters, arXiv 2310.07713: GPT, and the Retro fitted to it.
PAPER = {
    "843m": (0.8232, 0.8775),
    "2b": (2.2536, 2.4715),
    "8b": (8.5234, 9.5290),
    "22b": (21.266, 23.984),
    "43b": (42.825, 48.462),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES).with_suffix(""))


def resolved(path: Path) -> dict:
    """All settings of a training recipe, as the command line understands it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        fit.main(["fit", "-c", str(path), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(out.getvalue())


def test_the_recipes_are_found() -> None:
    assert len(DATA) >= 4
    assert len(HARDWARE) >= 5
    assert len(TRAINING) >= 8
    assert RUNS
    assert TASKS
    assert TEMPLATES
    assert {f"instructretro/gpt-{size}" for size in PAPER} <= {name_of(path) for path in TRAINING}


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_recipe_opens_with_what_it_is_and_how_it_is_run(path: Path) -> None:
    header = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert header is not None
    assert name_of(path) in header[0]
    assert "retrolit" in header[0]


@pytest.mark.parametrize("path", DATA, ids=name_of)
def test_a_data_recipe_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "-c", str(path), "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["folder"].startswith("prepared/")


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_is_one(path: Path) -> None:
    assert load_chat_template(str(path)).name == path.stem


@pytest.mark.parametrize("path", TASKS, ids=name_of)
def test_a_task_is_one(path: Path) -> None:
    assert load_task(str(path)).title


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_names_recipes_beside_it(path: Path) -> None:
    plan = Plan.load(path)
    named = re.findall(r"recipes/([\w.-]+)", " ".join(stage.command for stage in plan.stages))
    assert named
    assert not [name for name in {*named, plan.corpus} - {""} if not (path.parent / name).is_file()]


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_a_training_recipe_describes_a_model_and_a_run(path: Path) -> None:
    settings = resolved(path)
    assert settings["trainer"]["max_steps"] > 0
    assert settings["trainer"]["default_root_dir"].startswith("runs/")
    config = settings["model"]["init_args"]["config"]
    if config.get("decoder", config) is None:  # that of the GPT which the Retro is fitted from
        assert settings["model"]["init_args"]["retrofit_from"].startswith("runs/")
        return
    with torch.device("meta"):
        if "decoder" in config:
            model = Retro(RetroConfig.from_dict(config))
        else:
            model = GPT(GPTConfig.from_dict(config))
    size = path.stem.split("-")[-1]
    if size in PAPER:
        assert model.num_parameters() / 1e9 == pytest.approx(PAPER[size]["decoder" in config], rel=3e-4)
