"""GPTModule and PretrainingData under a trainer."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from torch.nn import functional as F

from retrolit import load_model, save_model
from retrolit.checkpoint.megatron_files import to_megatron
from retrolit.models import GPT
from retrolit.training import ScheduleConfig, newest_checkpoint


@pytest.fixture
def fit(make_trainer, make_module, make_data, rows, tmp_path):
    """Trains in tmp_path / name and gives the losses by step."""

    def run(name="run", *, module=None, data=None, **trainer):
        folder = tmp_path / name
        make_trainer(folder, **trainer).fit(module or make_module(), data or make_data())
        return {step: row["train/loss"] for step, row in rows(folder).items()}

    return run


def _close(one, other, rel=1e-5):
    assert one.keys() == other.keys()
    for step, loss in one.items():
        assert other[step] == pytest.approx(loss, rel=rel), step


def test_the_logged_loss_is_that_of_a_plain_training_loop(fit, make_module, make_data, drawn):
    """AdamW, warmup, clipping and accumulation, written down once more with nothing of ours but model and samples."""
    losses = fit(max_steps=4)
    data = make_data()
    data.setup("inspect")
    samples, module = data.training_samples(), make_module()
    model = drawn(GPT(module.config))
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in model.parameters() if w.ndim >= 2], "weight_decay": 0.1},
            {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    for step in range(4):
        rate = [1 / 3, 2 / 3, 1.0, 0.0][step] * 1e-2  # warmup of 3, then the floor at the last step
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = samples[range(8 * step, 8 * step + 8)]
        loss = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert losses[step + 1] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 8, None])
def test_how_a_step_is_divided_does_not_change_it(micro_batch_size, fit, make_data):
    _close(fit("one"), fit("other", data=make_data(micro_batch_size=micro_batch_size)))


def test_validation_is_the_mean_over_every_token(make_trainer, make_module, make_data, rows, tmp_path):
    make_trainer(tmp_path, max_steps=2).fit(make_module(), make_data())
    data = make_data()
    data.setup("inspect")
    model = load_model(newest_checkpoint(tmp_path))
    losses, num_bytes = [], 0
    for corpus in data.corpora["validation"]:
        stream = torch.from_numpy(corpus.store.tokens.astype("int64"))
        num_bytes += int((stream < 256).sum())
        for start in range(0, len(stream) - 1, 32):
            window = stream[start : start + 33]
            with torch.no_grad():
                logits = model(window[None, :-1])[0]
            losses += F.cross_entropy(logits, window[1:], reduction="none").tolist()
    mean = sum(losses) / len(losses)
    logged = rows(tmp_path, "val/loss")[2]
    assert logged["val/loss"] == pytest.approx(mean, rel=1e-5)
    assert logged["val/perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    tokens = len(losses) + len(data.corpora["validation"])  # with the first of each stream
    assert logged["val/bits_per_byte"] == pytest.approx(mean / math.log(2) * tokens / num_bytes, rel=1e-5)


def test_recomputed_activations_change_nothing(fit, make_module):
    dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    kept = fit("kept", module=make_module(dropout))
    _close(kept, fit("recomputed", module=make_module(dropout, checkpoint_activations=True)), rel=1e-6)


def test_bfloat16_clips_with_fused_adamw_and_stays_close(fit):
    _close(fit("float32"), fit("bfloat16", precision="bf16-mixed"), rel=2e-2)


def test_tokens_are_counted_in_float32_whatever_the_precision(make_trainer, make_module, make_data, tmp_path):
    seen = []

    class Look(L.Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append((batch.loss_mask.dtype, pl_module.decoder.embedding.weight.dtype))

    make_trainer(tmp_path, Look(), max_steps=1, precision="bf16-true").fit(make_module(), make_data())
    assert set(seen) == {(torch.float32, torch.bfloat16)}


@pytest.mark.slow
def test_compiled_layers_change_nothing(fit, make_module):
    _close(fit("eager"), fit("compiled", module=make_module(compile=True)), rel=1e-4)


@pytest.mark.parametrize(("unit", "factor"), [("samples", 8), ("tokens", 8 * 32)])
def test_a_schedule_counts_in_its_unit(unit, factor, fit, make_module):
    in_steps = fit("steps", module=make_module(schedule=ScheduleConfig(warmup=3, length=10)))
    schedule = ScheduleConfig(unit=unit, warmup=3 * factor, length=10 * factor)
    assert fit(unit, module=make_module(schedule=schedule)) == in_steps


def test_a_run_starts_from_the_weights_it_is_given(fit, make_module, tmp_path):
    fit("first")
    model = load_model(newest_checkpoint(tmp_path / "first"))
    save_model(model, tmp_path / "model")
    start = {"schedule": ScheduleConfig(warmup=1000)}
    from_folder = fit("folder", module=make_module(init_from=str(tmp_path / "model"), **start), max_steps=1)
    from_checkpoint = fit(
        "checkpoint", module=make_module(init_from=str(newest_checkpoint(tmp_path / "first")), **start), max_steps=1
    )
    assert from_folder == from_checkpoint
    assert from_folder[1] < fit("random", module=make_module(**start), max_steps=1)[1] - 0.5


def test_a_run_starts_from_megatrons_checkpoint_as_from_the_model_folder_made_of_it(fit, make_module, tmp_path):
    model = GPT(make_module().config)
    save_model(model, tmp_path / "model")
    to_megatron(tmp_path / "model", tmp_path / "megatron", tensor_parallel=2)
    expected = fit("folder", module=make_module(init_from=str(tmp_path / "model")), max_steps=2)
    assert fit("megatron", module=make_module(init_from=str(tmp_path / "megatron")), max_steps=2) == expected
    with pytest.raises(ValueError, match=r"megatron: expected a vocab_size of up to the 512 rows .*, got 513"):
        fit(module=make_module({"vocab_size": 513}, init_from=str(tmp_path / "megatron")))


def test_weights_of_another_model_are_refused(fit, make_module, tmp_path):
    save_model(GPT(make_module({"hidden_size": 32}).config), tmp_path / "other")
    with pytest.raises(ValueError, match=r"init_from: .*other.* is another model.*hidden_size"):
        fit(module=make_module(init_from=str(tmp_path / "other")))


def test_a_checkpoint_of_something_else_is_refused(make_trainer, make_module, make_data, tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(make_module(), make_data())
    path = newest_checkpoint(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["retrolit"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="ckpt_path: expected a checkpoint of a gpt, got none of ours"):
        make_trainer(tmp_path).fit(make_module(), make_data(), ckpt_path=path)


def test_only_the_newest_checkpoints_are_kept(fit, tmp_path):
    fit(max_steps=10, every=3)
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-00000009.ckpt", "step-00000010.ckpt"]


@pytest.mark.gpu
def test_float16_is_refused(fit):
    with pytest.raises(ValueError, match="expected bf16-mixed"):
        fit(precision="16-mixed", accelerator="gpu")
