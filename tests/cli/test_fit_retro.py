"""A Retro through the command line: fitted to a GPT, killed, started again, and its model folder."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from retrolit import load_model
from retrolit.models import Retro

RUN = Path("runs/retro")


@pytest.fixture
def retro_recipe(recipe, retrolit_process) -> Path:
    """A recipe of a Retro beside that of its GPT, which is trained; one data.yaml for both."""
    data = yaml.safe_load(Path("data.yaml").read_text())
    data["retrieval"] = {"chunk_length": 8, "neighbors": {"num_saved": 4, "num_searched": 16}}
    Path("data.yaml").write_text(yaml.safe_dump(data))
    settings = yaml.safe_load(recipe.read_text())
    assert retrolit_process("fit", "-c", recipe, "--trainer.max_steps", 2) == 0
    assert not Path("prepared/retrieval").exists()  # a GPT has none of it made
    arguments = settings["model"]["init_args"]
    config = {"decoder": arguments["config"], "retro_layers": [2], "chunk_length": 8, "encoder_layers": 1}
    config["encoder_hidden_dropout"] = 0.1
    settings["model"] = {
        "class_path": "RetroModule",
        "init_args": arguments | {"config": config, "retrofit_from": "runs/small/model"},
    }
    settings["data"]["init_args"]["num_neighbors"] = 2
    settings["trainer"]["default_root_dir"] = str(RUN)
    Path("retro.yaml").write_text(yaml.safe_dump(settings))
    return Path("retro.yaml")


def _outcome(metrics):
    checkpoint = torch.load(RUN / "checkpoints/step-00000012.ckpt", weights_only=True)
    names = ("train/loss", "val/bits_per_byte", "val/bits_per_byte_random", "val/bits_per_byte_gpt")
    return checkpoint["state_dict"], [metrics(name, folder=str(RUN)) for name in names]


def test_killed_and_started_again(retro_recipe, retrolit_process, metrics):
    """Bit for bit the run that was left alone, with a worker that reads neighbors ahead."""
    assert retrolit_process("fit", "-c", retro_recipe) == 0
    weights, numbers = _outcome(metrics)
    assert isinstance(load_model(RUN / "model"), Retro)
    shutil.rmtree(RUN)
    Path("interrupt.yaml").write_text(
        "trainer: {callbacks: [{class_path: interruptions.SignalAt, init_args: {step: 6, micro_batch: 1}}]}\n"
    )
    command = ["fit", "-c", retro_recipe, "--data.num_workers", 1]
    assert retrolit_process(*command, "-c", "interrupt.yaml") == -signal.SIGKILL
    changed = ["--data.num_neighbors", 1, "--model.config.num_neighbors", 1]
    assert retrolit_process(*command, *changed) == 2  # a changed setting is refused
    assert retrolit_process(*command) == 0
    again, numbers_again = _outcome(metrics)
    assert numbers_again == numbers
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def test_every_verb_reads_neighbors(retro_recipe, retrolit_process):
    """Of a recipe without a decoder, which is then the GPT's; the run's own recipe has it in full."""
    recipe = yaml.safe_load(retro_recipe.read_text())
    decoder = recipe["model"]["init_args"]["config"].pop("decoder")
    retro_recipe.write_text(yaml.safe_dump(recipe))
    assert retrolit_process("fit", "-c", retro_recipe, "--trainer.max_steps", 2) == 0
    assert retrolit_process("plan", "-c", retro_recipe) == 0
    resolved = yaml.safe_load((RUN / "config.yaml").read_text())["model"]["init_args"]["config"]["decoder"]
    assert decoder.items() <= resolved.items()
    for verb in ("validate", "test", "predict"):
        assert retrolit_process(verb, "-c", RUN / "config.yaml", "--data.num_neighbors", 3) == 0
        assert retrolit_process(verb, "-c", RUN / "config.yaml", "--ckpt_path", RUN / "model") == 0
    assert (RUN / "token_losses/words.npy").exists()
    results = json.loads((RUN / "results.json").read_text())["splits"]["test"]
    assert set(results["readings"]) == {"retrieved", "none", "random", "gpt"}
    assert results["data"]["num_neighbors"] == 2
    assert results["overlap_curve"][-1]["tokens"] > 0
