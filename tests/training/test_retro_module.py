"""RetroModule and PretrainingData with neighbors, under a trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from retrolit import load_model, save_model
from retrolit.data import PracticeConfig
from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.retrieval import RetrievalConfig
from retrolit.training import (
    GPTModule,
    InstructRetroModule,
    OptimizerConfig,
    RetroModule,
    ScheduleConfig,
    newest_checkpoint,
)
from retrolit.training.settings import refuse_changes
from tests.training.small_retro import DECODER, RETRIEVAL, RETRO, save_moved

PARTS = ("encoder", "cross_attention", "decoder", "optimizer")
NEIGHBORS = {"num_neighbors": 2, "num_retrieved_chunks": 2}


@pytest.fixture
def make_retro_data(data_config, make_data):
    """As make_data, from a data.yaml with retrieval."""

    def make(**changes):
        return make_data(**({"data": replace(data_config, retrieval=RETRIEVAL)} | NEIGHBORS | changes))

    return make


@pytest.fixture
def make_retro():
    def make(config: RetroConfig = RETRO, *, lr: float = 1e-2, warmup: int = 3, **changes) -> RetroModule:
        torch.manual_seed(5)  # the first weights
        return RetroModule(
            config, optimizer=OptimizerConfig(lr=lr), schedule=ScheduleConfig(warmup=warmup), **changes
        )  # fmt: skip

    return make


@pytest.fixture
def fit(make_trainer, make_retro, make_retro_data, rows, tmp_path):
    """Trains in tmp_path / name and gives the losses by step."""

    def run(name="run", *, module=None, data=None, **trainer):
        folder = tmp_path / name
        make_trainer(folder, **trainer).fit(module or make_retro(), data or make_retro_data())
        return {step: row["train/loss"] for step, row in rows(folder).items()}

    return run


@pytest.fixture
def gpt(tmp_path) -> Path:
    """A GPT's model folder."""
    save_moved(DECODER, tmp_path / "gpt")
    return tmp_path / "gpt"


def _first_batch(make_retro_data):
    data = make_retro_data()
    data.setup("inspect")
    return data.training_samples()[range(8)]


def test_the_logged_loss_is_that_of_a_plain_training_loop(fit, make_retro, make_retro_data, drawn):
    """AdamW, warmup, clipping and accumulation, written down once more with nothing of ours but model and samples."""
    losses = fit(max_steps=4)
    data, module = make_retro_data(), make_retro()
    data.setup("inspect")
    samples, model = data.training_samples(), drawn(Retro(module.config))
    decay = [{"params": [w for w in model.parameters() if (w.ndim >= 2) == m], "weight_decay": 0.1 * m} for m in (1, 0)]
    optimizer = torch.optim.AdamW(decay, betas=(0.9, 0.95))
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = [1 / 3, 2 / 3, 1.0, 0.0][step] * 1e-2
        batch = samples[range(8 * step, 8 * step + 8)]
        logits = model(batch.tokens, batch.neighbor_tokens, batch.neighbor_mask)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert losses[step + 1] == pytest.approx(loss.item(), rel=1e-5)


def test_the_rows_tell_how_their_own_step_divides(fit, make_module, make_retro_data, rows, tmp_path):
    fit("retro", max_steps=5, log_every_n_steps=2, data=make_retro_data(micro_batch_size=2))
    parts = ["speed/data_wait_share", *(f"speed/{name}_share" for name in PARTS)]
    found = rows(tmp_path / "retro", "speed/encoder_share")
    assert set(found) == {2, 4}
    for row in found.values():
        assert sum(row[part] for part in parts) == pytest.approx(1)
        assert all(0 < row[part] < 1 for part in parts)
    fit("gpt", max_steps=2, module=make_module(), data=make_retro_data(num_neighbors=0))
    assert rows(tmp_path / "gpt")
    assert not rows(tmp_path / "gpt", "speed/encoder_share")


def test_workers_and_the_division_of_a_step_change_nothing(fit, make_retro_data):
    one = fit("one", max_steps=3)
    other = fit("other", max_steps=3, data=make_retro_data(micro_batch_size=2, num_workers=2))
    assert other == pytest.approx(one, rel=1e-5)


def test_validation_tells_four_numbers_and_their_gain(
    make_trainer, make_retro, make_retro_data, rows, gpt, tmp_path, capsys
):  # fmt: skip
    """Against windows read one by one; the neighbors of random chunks are those of no chunk in its own place."""
    module = make_retro(retrofit_from=str(gpt))
    make_trainer(tmp_path, max_steps=6, val_check_interval=3).fit(module, make_retro_data())
    logged = rows(tmp_path, "val/loss")
    assert list(logged) == [3, 6]
    data = make_retro_data()
    data.setup("inspect")
    model, source = load_model(newest_checkpoint(tmp_path)), load_model(gpt)
    samples, losses = data.evaluation_samples("validation"), {}
    for number in range(len(samples)):
        batch = samples[[number]]
        kept = batch.loss_mask.bool()
        with torch.no_grad():
            answers = {
                "": model(batch.tokens, batch.neighbor_tokens, batch.neighbor_mask),
                "_none": model.decoder(batch.tokens),
                "_gpt": source(batch.tokens),
            }
        for name, logits in answers.items():
            losses.setdefault(name, []).extend(F.cross_entropy(logits[kept], batch.labels[kept], reduction="none"))
    scale = math.log(2) * data.bytes_per_token("validation")
    for name, values in losses.items():
        expected = float(torch.stack(values).mean()) / scale
        assert logged[6][f"val/bits_per_byte{name}"] == pytest.approx(expected, rel=1e-5), name
    assert logged[6]["val/retrieval_gain"] == (
        logged[6]["val/bits_per_byte_none"] - logged[6]["val/bits_per_byte"]
    )  # fmt: skip
    assert logged[6]["val/bits_per_byte_random"] not in (
        logged[6]["val/bits_per_byte"], logged[6]["val/bits_per_byte_none"]
    )  # fmt: skip
    assert logged[3]["val/bits_per_byte_gpt"] == logged[6]["val/bits_per_byte_gpt"]
    assert not any(name.startswith("source") for name in module.state_dict())


def test_neighbors_that_are_of_no_use_are_told_loudly(make_trainer, make_retro, make_retro_data, tmp_path, capsys):
    module = make_retro(replace(RETRO, cross_attention_init="zero"), warmup=1000, lr=1e-6)
    make_trainer(tmp_path, max_steps=1, val_check_interval=1).fit(module, make_retro_data())
    lines = [line for line in capsys.readouterr().out.splitlines() if "RETRIEVAL IS NOT BEING USED" in line]
    assert len(lines) == 1
    assert "neighbors of random chunks are as good as those retrieved" in lines[0]


@pytest.mark.parametrize("train", ["all", "new"])
def test_a_retro_begins_as_the_gpt_it_is_fitted_to(train, fit, make_retro, make_retro_data, gpt):
    """With cross-attention that adds nothing yet, the first loss is the GPT's."""
    config = replace(RETRO, cross_attention_init="zero")
    first = fit(max_steps=1, module=make_retro(config, retrofit_from=str(gpt), train=train))[1]
    batch = _first_batch(make_retro_data)
    with torch.no_grad():
        expected = load_model(gpt).loss(batch.tokens, batch.labels).mean
    assert first == pytest.approx(float(expected), rel=1e-6)


def test_a_frozen_decoder_stays_the_gpt_bit_for_bit_and_without_dropout(
    make_trainer, make_retro, make_retro_data, rows, gpt, tmp_path
):
    dropout = replace(DECODER, hidden_dropout=0.5, attention_dropout=0.5)
    config = replace(RETRO, decoder=dropout, cross_attention_init="zero")
    module = make_retro(config, retrofit_from=str(gpt), train="new")
    make_trainer(tmp_path, max_steps=6, val_check_interval=3).fit(module, make_retro_data())
    batch, source = _first_batch(make_retro_data), load_model(gpt)
    with torch.no_grad():
        expected = source.loss(batch.tokens, batch.labels).mean
    assert rows(tmp_path)[1]["train/loss"] == pytest.approx(float(expected), rel=1e-6)  # no dropout
    trained = load_model(newest_checkpoint(tmp_path))
    before = source.state_dict()
    for name, tensor in trained.decoder.state_dict().items():
        if "cross_attention" not in name:
            assert torch.equal(tensor, before[name]), name
    assert trained.decoder.layers[1].cross_attention.output.weight.abs().sum() > 0
    validation = rows(tmp_path, "val/loss")[6]
    assert validation["val/bits_per_byte_none"] == validation["val/bits_per_byte_gpt"]
    state = torch.load(newest_checkpoint(tmp_path), weights_only=True)["optimizer_states"][0]["state"]
    new = [name for name in trained.state_dict() if name.startswith("encoder.") or "cross_attention" in name]
    assert len(state) == len(new)


def test_recomputed_activations_change_nothing(fit, make_retro, gpt):
    for train in ("all", "new"):
        settings = {"retrofit_from": str(gpt), "train": train}
        kept = fit(f"kept {train}", max_steps=3, module=make_retro(**settings))
        module = make_retro(checkpoint_activations=True, **settings)
        assert fit(f"recomputed {train}", max_steps=3, module=module) == pytest.approx(kept, rel=1e-6)


def test_a_gpt_shares_the_data_and_opens_no_neighbors(
    make_trainer, make_module, make_retro_data, data_config, tmp_path
):
    prepared = {"data": replace(data_config, folder=str(tmp_path / "prepared"), retrieval=RetrievalConfig())}
    data = make_retro_data(num_neighbors=0, **prepared)
    make_trainer(tmp_path / "run", max_steps=1).fit(make_module(), data)
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.name == "retrieval"] == []
    assert data.training_samples()[[0]].neighbor_tokens is None
    assert "num_neighbors" not in data.state_dict()


def test_a_run_goes_on_without_the_gpt_it_was_fitted_to(
    make_trainer, make_retro, make_retro_data, rows, gpt, tmp_path, capsys
):
    settings = {"max_steps": 4, "every": 2, "val_check_interval": 4}
    make_trainer(tmp_path / "run", **settings).fit(make_retro(retrofit_from=str(gpt)), make_retro_data())
    gpt.rename(gpt.with_name("elsewhere"))
    module = make_retro(retrofit_from=str(gpt))
    module.starts_fresh = False
    checkpoint = tmp_path / "run/checkpoints/step-00000002.ckpt"
    make_trainer(tmp_path / "second", **settings).fit(module, make_retro_data(), ckpt_path=checkpoint)
    assert "gpt is gone: bits_per_byte_gpt is left out" in capsys.readouterr().out
    losses = [rows(tmp_path / run, "val/loss")[4] for run in ("run", "second")]
    assert losses[0].pop("val/bits_per_byte_gpt")
    assert losses[0] == losses[1]


def test_a_run_starts_from_the_retro_it_is_given(fit, make_retro, tmp_path):
    fit("first")
    save_model(load_model(newest_checkpoint(tmp_path / "first")), tmp_path / "model")
    path = str(tmp_path / "model")
    start = fit("second", max_steps=1, module=make_retro(init_from=path, retrofit_from="nowhere", warmup=1000))
    assert start[1] < fit("random", max_steps=1, module=make_retro(warmup=1000))[1] - 0.5


# What is wrong -> module, data, what the message says.
MISTAKES = {
    "no neighbors": ({}, {"num_neighbors": 0}, r"data.num_neighbors: expected model.config.num_neighbors \(2\), got 0"),
    "other number": ({}, {"num_neighbors": 3}, r"data.num_neighbors: expected model.config.num_neighbors \(2\), got 3"),
    "other length": (
        {}, {"num_retrieved_chunks": 1}, r"data.num_retrieved_chunks: expected model.config.num_retrieved_chunks \(2\)",
    ),
    "other chunks": (
        {"config": replace(RETRO, chunk_length=4)}, {},
        r"data.chunk_length: expected model.config.chunk_length \(4\), got 8",
    ),
    "vocabulary": (
        {"config": replace(RETRO, decoder=replace(DECODER, vocab_size=100))}, {},
        r"model.config.decoder.vocab_size: expected at least the tokenizer's 257, got 100",
    ),
    "nothing there": ({"retrofit_from": "nowhere"}, {}, "nowhere: there is no such model folder"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_refused(mistake, fit, make_retro, make_retro_data):
    module, data, message = MISTAKES[mistake]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(module=make_retro(**module), data=make_retro_data(**data))


def test_data_that_cannot_give_neighbors_are_refused(data_config, make_data, make_retro_data):
    with pytest.raises(ValueError, match=r"a data.yaml with a `retrieval:` part is expected, got one without"):
        make_data(num_neighbors=2)
    with pytest.raises(ValueError, match=r"data.chunk_length: the data's neighbors are those of chunks of 8 .* got 16"):
        make_retro_data(chunk_length=16)
    with pytest.raises(ValueError, match=r"data.num_neighbors: expected at least 0, got -1"):
        make_retro_data(num_neighbors=-1)
    with pytest.raises(ValueError, match=r"data.practice: expected num_neighbors of at least 1 to practice .* got 0"):
        make_data(practice=PracticeConfig(steps=1))


def test_practice_is_part_of_training_alone_and_not_to_be_changed_in_a_run(fit, make_retro_data):
    practicing, plain = make_retro_data(practice=PracticeConfig(steps=2, share=1.0)), make_retro_data()
    for data in (practicing, plain):
        data.prepare_data()
        data.open()
    for number, same in ((0, False), (15, False), (16, True)):  # 8 samples a step
        batches = [data.training_samples()[[number]].neighbor_tokens for data in (practicing, plain)]
        assert torch.equal(*batches) == same, number
    held_out = [data.evaluation_samples("validation")[[0]].neighbor_tokens for data in (practicing, plain)]
    assert torch.equal(*held_out)

    with pytest.raises(ValueError, match=r"data.practice.share was 1.0, is now not there"):
        refuse_changes("data", practicing.state_dict(), plain.state_dict())
    assert fit("practicing", max_steps=1, data=practicing) != fit("plain", max_steps=1, data=plain)


def test_the_decoder_left_out_is_that_of_the_gpt(fit, make_retro, gpt, tmp_path):
    around = replace(RETRO, decoder=None)
    assert make_retro(around, retrofit_from=str(gpt)).config == RETRO
    losses = [
        fit(name, max_steps=1, module=make_retro(config, retrofit_from=str(gpt)))
        for name, config in (("given", RETRO), ("left-out", around))
    ]
    assert losses[0] == losses[1]

    for module in (make_retro, InstructRetroModule):
        with pytest.raises(ValueError, match=r"config.decoder: expected the config of a GPT, got none; it may be"):
            module(around)
    with pytest.raises(FileNotFoundError, match=r"model.retrofit_from: .* config model.config.decoder is, nowhere is"):
        make_retro(around, retrofit_from="nowhere")
    save_model(Retro(RETRO), tmp_path / "retro")
    with pytest.raises(ValueError, match=r"model.retrofit_from: expected a GPT's .*holds a Retro; to go on from"):
        make_retro(around, retrofit_from=str(tmp_path / "retro"))


def test_models_of_another_kind_are_refused(fit, make_trainer, make_module, make_retro, make_retro_data, gpt, tmp_path):
    with pytest.raises(ValueError, match=r"data.num_neighbors: expected 0 for a GPT, which reads no neighbors, got 2"):
        make_trainer(tmp_path / "gpt-run").fit(make_module(), make_retro_data())
    with pytest.raises(ValueError, match=r"model.init_from: .* holds a GPT, expected a Retro"):
        fit(module=make_retro(init_from=str(gpt)))
    save_model(Retro(RETRO), tmp_path / "retro")
    with pytest.raises(ValueError, match=r"model.retrofit_from: expected a GPT's .*holds a Retro; to go on from"):
        fit(module=make_retro(retrofit_from=str(tmp_path / "retro")))
    wider = replace(RETRO, decoder=replace(DECODER, hidden_size=32))
    with pytest.raises(
        ValueError,
        match=r"model.config.decoder: expected the config of the GPT in .*, got hidden_size 32, of the GPT 16",
    ):
        fit(module=make_retro(wider, retrofit_from=str(gpt)))
    with pytest.raises(ValueError, match=r"model.train: expected all or new, got 'some'"):
        make_retro(train="some")
    assert isinstance(GPTModule(DECODER).config, GPTConfig)
    assert np.isfinite(fit("after", max_steps=1)[1])
