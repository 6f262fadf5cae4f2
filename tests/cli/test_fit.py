"""fit, validate, test and predict through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from retrolit import load_model
from retrolit.cli.main import main
from retrolit.tokens import TokenStore, load_tokenizer

RUN = Path("runs/small")
RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = ["--trainer.max_steps", "2"]


@pytest.fixture
def fit(recipe):
    def run(*options):
        return main(["fit", "-c", str(recipe), *map(str, options)])

    return run


def test_a_run_leaves_settings_metrics_checkpoints_samples_and_a_model(fit, metrics, capsys):
    assert fit() == 0
    names = {path.name for path in RUN.iterdir()}
    assert names == {"config.yaml", "run.json", "metrics.jsonl", "checkpoints", "model", "samples.jsonl"}
    assert [path.name for path in sorted((RUN / "checkpoints").iterdir())] == [
        "step-00000008.ckpt",
        "step-00000012.ckpt",
    ]
    assert list(metrics("train/loss")) == list(range(1, 13))
    assert list(metrics("val/bits_per_byte")) == [3, 6, 9, 12]
    assert metrics("train/loss")[12] < metrics("train/loss")[1]
    assert metrics("train/consumed_tokens")[12] == 12 * 8 * 32
    assert metrics("train/learning_rate")[3] == pytest.approx(0.01)
    assert metrics("train/learning_rate")[12] == 0
    assert {json.loads(line)["step"] for line in (RUN / "samples.jsonl").read_text().splitlines()} == {3, 6, 9, 12}
    # The model folder holds what the last checkpoint holds.
    checkpoint = load_model(RUN / "checkpoints/step-00000012.ckpt")
    for name, tensor in load_model(RUN / "model").state_dict().items():
        assert torch.equal(tensor, checkpoint.state_dict()[name]), name
    assert load_tokenizer(RUN / "model").vocab_size == 257
    output = capsys.readouterr().out
    assert "12 steps of 8 x 32 tokens = 3,072 tokens" in output
    assert "words: " in output  # the accounting
    assert "step 12/12" in output


def test_a_finished_run_says_so_and_changed_settings_are_refused(fit, capsys):
    assert fit(*SHORT) == 0
    written = (RUN / "model/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert fit(*SHORT) == 0
    assert f"{RUN}: finished, 2 steps; the model is in {RUN / 'model'}" in capsys.readouterr().out
    assert (RUN / "model/model.safetensors").stat().st_mtime_ns == written
    saved = (RUN / "config.yaml").read_text()
    assert fit(*SHORT, "--model.optimizer.lr", 0.5, "--model.config.hidden_size", 32) == 2
    error = capsys.readouterr().err
    assert "model.config.hidden_size was 16, is now 32" in error
    assert "model.optimizer.lr was 0.01, is now 0.5" in error
    assert fit(*SHORT, "--data.seed", 7) == 2
    assert "data.seed was 1234, is now 7" in capsys.readouterr().err
    assert (RUN / "config.yaml").read_text() == saved


def test_a_finished_run_can_be_made_longer(fit, metrics, capsys):
    options = ["--model.schedule.type", "constant"]
    assert fit(*SHORT, *options) == 0
    assert fit("--trainer.max_steps", 5, *options) == 0
    assert f"going on from {RUN / 'checkpoints/step-00000002.ckpt'} (step 2 of 5)" in capsys.readouterr().out
    assert list(metrics("train/loss")) == [1, 2, 3, 4, 5]


def test_a_damaged_checkpoint_is_passed_over(fit, metrics, capsys):
    assert fit("--trainer.max_steps", 8) == 0
    newest = RUN / "checkpoints/step-00000008.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert fit("--trainer.max_steps", 8) == 0
    output = capsys.readouterr().out
    assert f"{newest} is damaged" in output
    assert "going on from runs/small/checkpoints/step-00000004.ckpt (step 4 of 8)" in output


def test_later_files_and_options_win_and_the_run_remembers_the_outcome(fit):
    Path("overlay.yaml").write_text("trainer: {max_steps: 3}\nmodel: {init_args: {optimizer: {weight_decay: 0.5}}}\n")
    assert fit("-c", "overlay.yaml", "--trainer.max_steps", 2, "--data.micro_batch_size", 2) == 0
    saved = yaml.safe_load((RUN / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 2
    assert saved["model"]["init_args"]["optimizer"]["weight_decay"] == 0.5
    assert saved["model"]["init_args"]["optimizer"]["lr"] == 0.01
    assert saved["data"]["init_args"]["micro_batch_size"] == 2
    assert saved["data"]["init_args"]["data"]["folder"] == "prepared"
    # And what it remembers is a recipe again.
    assert main(["fit", "-c", str(RUN / "config.yaml"), "--trainer.default_root_dir", "runs/again"]) == 0
    assert Path("runs/again/model").is_dir()


def test_evaluation_of_a_finished_run_needs_only_its_settings(fit, capsys):
    assert fit(*SHORT) == 0
    capsys.readouterr()
    assert main(["test", "-c", str(RUN / "config.yaml")]) == 0
    output = capsys.readouterr().out
    results = json.loads((RUN / "results.json").read_text())["splits"]["test"]
    values = results["readings"]["gpt"]
    for name, digits in (("loss", 4), ("perplexity", 2), ("bits_per_byte", 4)):
        assert f"{values[name]:,.{digits}f}" in output
    assert results["weights"]["path"] == str(RUN / "checkpoints/step-00000002.ckpt")
    assert results["leakage"] == {"documents": 0, "named": []}

    assert main(["predict", "-c", str(RUN / "config.yaml")]) == 0
    losses = np.load(RUN / "token_losses/words.npy")
    (prefix,) = Path("prepared/tokens").glob("*/test.bin")
    store = TokenStore(prefix.with_suffix(""))
    assert losses.dtype == np.float32
    assert losses.shape == store.tokens.shape
    assert np.isnan(losses).tolist() == [True] + [False] * (len(losses) - 1)
    assert np.nanmean(losses) == pytest.approx(values["loss"], rel=1e-5)

    # The model folder serves as well, by itself or by name.
    for checkpoint in (RUN / "checkpoints").iterdir():
        checkpoint.unlink()
    capsys.readouterr()
    for options in ([], ["--ckpt_path", str(RUN / "model")]):
        assert main(["test", "-c", str(RUN / "config.yaml"), *options]) == 0
        output = capsys.readouterr().out
        assert f"weights from {RUN / 'model'}" in output
        assert f"{values['loss']:.4f}" in output
    assert main(["validate", "-c", str(RUN / "config.yaml")]) == 0
    assert "validation: " in capsys.readouterr().out
    splits = json.loads((RUN / "results.json").read_text())["splits"]
    assert set(splits) == {"test", "validation"}
    assert splits["test"]["weights"]["path"] == str(RUN / "model")


def test_documents_of_both_sides_are_refused_unless_that_is_wanted(fit, capsys):
    data = yaml.safe_load(Path("data.yaml").read_text())
    texts = Path("words.jsonl").read_text().splitlines(keepends=True)
    Path("seen.jsonl").write_text("".join(texts))
    data["tokens"]["corpora"]["seen"] = {"source": "seen.jsonl", "split": "test"}
    Path("data.yaml").write_text(yaml.safe_dump(data))
    assert fit(*SHORT) == 0
    capsys.readouterr()
    assert main(["test", "-c", str(RUN / "config.yaml")]) == 2
    error = capsys.readouterr().err
    assert "of seen (as words.jsonl:" in error
    assert "--evaluation.allow_leakage true" in error
    assert not (RUN / "results.json").exists()
    assert main(["test", "-c", str(RUN / "config.yaml"), "--evaluation.allow_leakage", "true"]) == 0
    leaked = json.loads((RUN / "results.json").read_text())["splits"]["test"]["leakage"]
    assert 20 < leaked["documents"] < 60
    assert len(leaked["named"]) == 20
    told = f"LEAKAGE: {leaked['documents']} of these documents are training or database documents too"
    assert told in capsys.readouterr().out


def test_a_number_of_resamples_below_none_is_refused(fit, capsys):
    assert fit(*SHORT, "--evaluation.num_resamples", -1) == 2
    assert "evaluation.num_resamples: expected at least 0, got -1" in capsys.readouterr().err


def test_evaluation_without_a_model_says_what_is_missing(recipe, capsys):
    assert main(["test", "-c", str(recipe)]) == 2
    assert "found neither checkpoints/ nor model/; run `retrolit fit` first" in capsys.readouterr().err


def test_a_dry_run_leaves_nothing_behind(fit):
    assert fit("--trainer.fast_dev_run", "true") == 0
    assert not RUN.exists()


def test_a_run_can_start_from_another_model(fit, metrics):
    assert fit() == 0
    last = metrics("val/loss")[12]
    options = ["--trainer.default_root_dir", "runs/second", "--model.optimizer.lr", 1e-6]
    assert fit(*SHORT, *options, "--model.init_from", RUN / "model") == 0
    assert metrics("val/loss", folder="runs/second")[2] == pytest.approx(last, abs=0.01)


def test_a_diverged_run_stops_and_names_step_and_checkpoint(fit, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent / "children")
    Path("break.yaml").write_text("trainer: {callbacks: [{class_path: interruptions.BreakAt, init_args: {step: 6}}]}\n")
    assert fit("-c", "break.yaml") == 1
    error = capsys.readouterr().err
    assert "training diverged at step 7: the loss is nan" in error
    assert f"the checkpoint from before is {RUN / 'checkpoints/step-00000004.ckpt'}" in error
    assert [path.name for path in (RUN / "checkpoints").iterdir()] == ["step-00000004.ckpt"]


# What is given -> what the message says.
MISTAKES = {
    "--trainer.max_stepz 3": "trainer.max_stepz: there is no such setting; did you mean trainer.max_steps?",
    "--model.optimizer.lrr 3": "model.optimizer.lrr: there is no such setting; did you mean optimizer.lr?",
    "--model.optimizer.lr fast": "model.optimizer.lr: Expected a <class 'float'>. Got value: fast",
    "--model GPTModul": "there is no class GPTModul; the classes are GPTModule, InstructRetroModule, RetroModule",
    "--data PretrainingDate": "data: there is no class PretrainingDate; the classes are ",
    "-c typo.yaml": "trainer.max_stepz: there is no such setting; did you mean trainer.max_steps?",
    "-c nowhere.yaml": "File does not exist",
    "--model.config.hidden_size 17": "GPTConfig.num_attention_heads: expected a divisor of hidden_size (17), got 2",
    "--model.config.vocab_size 100": "model.config.vocab_size: expected at least the tokenizer's 257, got 100",
    "--data.sequence_length 64": "expected at most model.config.max_position_embeddings (32), got 64",
    "--data.sequence_length 12": "data.sequence_length: expected a multiple of chunk_length (8), got 12",
    "--data.chunk_length 0": "data.chunk_length: expected at least 1, got 0",
    "--data.micro_batch_size 3": "data.global_batch_size: expected a multiple of micro_batch_size x devices = 3 x 1",
    "--trainer.accumulate_grad_batches 4": "trainer.accumulate_grad_batches: it follows from data.global_batch_size",
    "--trainer.max_steps -1": "expected the number of optimizer steps to train, got -1; one epoch is",
    "--trainer.default_root_dir null": "trainer.default_root_dir: expected the run's folder",
    "--checkpoints.every 0": "checkpoints: expected every and keep of at least 1, got 0 and 2",
    "--model.optimizer.lr 0": "optimizer.lr: expected more than 0, got 0.0",
    "--model.init_from nowhere": "nowhere: there is no such model folder or checkpoint",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_ends_in_a_line_or_two(options, fit, capsys):
    Path("typo.yaml").write_text("trainer: {max_stepz: 3}\n")
    assert fit(*options.split()) == 2
    error = capsys.readouterr().err
    assert MISTAKES[options] in error
    lines = [line for line in error.splitlines() if line.startswith("retrolit fit: ")]
    assert len(lines) == 1
    assert "Traceback" not in error


def test_a_model_needs_its_recipe(capsys):
    assert main(["fit"]) == 2
    assert "the following arguments are required" in capsys.readouterr().err


@pytest.mark.parametrize("overlay", sorted(path.name for path in (RECIPES / "hardware").glob("*.yaml")))
def test_every_hardware_overlay_fits_a_recipe(overlay, capsys):
    command = ["fit", "-c", str(RECIPES / "tiny/gpt.yaml"), "-c", str(RECIPES / "hardware" / overlay)]
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--print_config"])
    assert exit_.value.code == 0
    merged = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load((RECIPES / "hardware" / overlay).read_text())
    assert merged["trainer"]["precision"] == given["trainer"]["precision"]
    assert merged["model"]["init_args"]["config"]["vocab_size"] == 257


def test_there_are_hardware_overlays():
    names = {path.stem for path in (RECIPES / "hardware").glob("*.yaml")}
    assert names >= {"cpu", "one_gpu", "ddp", "fsdp", "fsdp2"}
