"""`retrolit plan`: a recipe and a cluster in, numbers out; nothing is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrolit.cli.main import main
from retrolit.cli.plan import read_recipe
from retrolit.cli.show_plan import show_training
from retrolit.cli.sizes_page import page
from retrolit.planning import plan_training

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


def test_a_training_recipe_is_planned_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "instructretro" / "retro-843m.yaml")
    assert main(["plan", "-c", recipe, "--cluster.gpus", "64", "--cluster.gpu", "A100", "--cluster.mfu", "0.4"]) == 0
    out = capsys.readouterr().out
    assert "Retro, 877,518,848 parameters, all trained" in out
    assert "195,312 steps x 128 samples x 4,096 tokens = 102.40 G tokens" in out
    assert "on 64 x A100 at 40% of 312 TFLOP/s" in out
    fitting = [line.split()[0] for line in out.splitlines() if line.endswith("fits")]
    assert fitting == [word for name in ("single", "ddp", "fsdp", "fsdp+tp") for word in (name, "checkpointed")]


def test_overlays_and_options_change_the_recipe_as_in_fit(recipe: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("cluster: {gpus: 2, gpu: L4}\ntrainer: {precision: bf16-true}\n")
    options = ["--data.micro_batch_size", "2", "--model.compile", "true"]
    run, cluster = read_recipe(["-c", str(recipe), "-c", str(overlay), *options])
    assert (cluster.gpus, cluster.gpu, cluster.memory_gib) == (2, "L4", 24)
    assert (run.batch.precision, run.batch.samples, run.global_batch_size, run.steps) == ("bf16-true", 2, 8, 12)
    assert run.batch.compiled
    assert "tokens at a time, bf16-true, compiled\n" in show_training(run, cluster, plan_training(run, cluster))


def test_a_batch_that_does_not_divide_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-c", str(recipe), "--cluster.gpus", "3"]) == 0
    assert "note        ddp: 3 times 4 samples do not divide the global batch of 8" in capsys.readouterr().out


def test_a_data_recipe_is_planned_for_so_much_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "instructretro" / "data-paper.yaml")
    amount = ["--database.tokens", "1.2e12", "--database.dimension", "1024", "--rates.workers", "1000"]
    assert main(["plan", "-c", recipe, *amount]) == 0
    out = capsys.readouterr().out
    assert "18,750,000,000 chunks" in out
    assert "3,014.5 hours of one worker, 3.0 of 1,000" in out


def test_a_card_s_measured_queries_are_the_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = {
        "factory": "Flat", "reason": "few", "nprobe": None, "ef_search": None, "vectors": 10, "bytes": 15360,
        "bytes_per_vector": 1536.0, "queries": 5, "held_out": True, "recall": {"1": 1.0, "2": 1.0, "10": 1.0},
        "self_recall": 1.0, "queries_per_second": 100.0, "target_recall": 0.9,
    }  # fmt: skip
    (tmp_path / "card.json").write_text(json.dumps(card))
    asked = ["plan", "-c", str(RECIPES / "tiny" / "data.yaml"), "--database.tokens", str(64 * 360_000)]
    assert main([*asked, "--card", str(tmp_path)]) == 0
    assert "query       1.0 hours of one worker" in capsys.readouterr().out
    (tmp_path / "card.json").write_text(json.dumps(card | {"queries": 0, "queries_per_second": None}))
    assert main([*asked, "--card", str(tmp_path)]) == 2
    assert "card: expected one that has measured queries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected -c RECIPE.yaml, got none"),
        (["-c", "nowhere.yaml"], "nowhere.yaml: there is no such recipe"),
        (["-c", "recipe.yaml", "--cluster.gpu", "abacus"], "cluster.gpu: expected one of B200"),
        (["-c", "recipe.yaml", "--trainer.precision", "16-mixed"], "trainer.precision: expected one of 32-true"),
        (["-c", "recipe.yaml", "--data.micro_batches", "2"], "micro_batches"),
        (["-c", "data.yaml", "--database.tokens", "100"], "retrieval: expected a data.yaml with a `retrieval:` part"),
    ],
)
def test_mistakes_are_told_in_a_line(
    recipe: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *(arguments or ["--cluster.gpus", "2"])]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err


def test_help_names_the_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    out = capsys.readouterr().out
    assert "retrolit plan -c RECIPE.yaml" in out
    assert "--cluster.mfu" in out


def test_the_page_of_sizes_is_current() -> None:
    """If not: python -m retrolit.cli.sizes_page > docs/sizes.md. The rows of one model stand for all."""
    there = (ROOT / "docs" / "sizes.md").read_text(encoding="utf-8").splitlines()
    fresh = page(["843m"]).splitlines()
    assert sum("843m |" in line for line in fresh) >= 5
    assert [line for line in fresh if line not in there] == []
