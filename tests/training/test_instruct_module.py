"""InstructRetroModule under a trainer: which tokens count, which weights move, and adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from retrolit import load_model, save_model
from retrolit.data.batch import Batch
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.models.lora import LoRAConfig
from retrolit.training import (
    InstructRetroModule,
    OptimizerConfig,
    PretrainingData,
    ScheduleConfig,
    newest_checkpoint,
)
from tests.training.small_retro import DECODER, RETRIEVAL, RETRO, save_moved

RATE = 1e-2


class Replies(Dataset[Batch]):
    """Samples of which few tokens are trained, and of some hardly any; two texts to a sample where they are packed."""

    def __init__(self, samples: Dataset[Batch], packed: bool) -> None:
        self.samples = samples
        self.packed = packed

    def __getitem__(self, numbers) -> Batch:
        batch = self.samples[numbers]
        begins = torch.tensor([[30, 5, 17, 26][number % 4] for number in numbers])
        columns = torch.arange(batch.tokens.shape[1])
        batch.loss_mask = (columns >= begins[:, None]).float()
        if self.packed:
            batch.segments = (columns >= 16).long().expand_as(batch.tokens)
        return batch


class RepliesData(PretrainingData):
    packed = False

    def training_samples(self) -> Replies:
        return Replies(super().training_samples(), self.packed)  # pyright: ignore[reportReturnType]

    def accounting(self) -> list[str]:
        return []


@pytest.fixture
def make_replies(data_config):
    def make(*, neighbors: int = 0, packed: bool = False, **changes) -> RepliesData:
        settings = {"sequence_length": 32, "global_batch_size": 8, "micro_batch_size": 4, "chunk_length": 8}
        data = RepliesData(
            replace(data_config, retrieval=RETRIEVAL), num_neighbors=neighbors, num_retrieved_chunks=2,
            **(settings | changes),
        )  # fmt: skip
        data.packed = packed
        return data

    return make


@pytest.fixture
def retro(tmp_path) -> Path:
    """The folder of a Retro all of whose weights matter."""
    model = save_moved(RETRO, tmp_path / "retro")
    assert isinstance(model, Retro)
    save_model(model.decoder, tmp_path / "gpt")
    return tmp_path / "retro"


def make_module(start: Path, config: RetroConfig | GPTConfig = RETRO, **changes) -> InstructRetroModule:
    torch.manual_seed(5)  # of adapters
    return InstructRetroModule(
        config, init_from=str(start), optimizer=OptimizerConfig(lr=RATE), schedule=ScheduleConfig("constant"), **changes
    )


@pytest.fixture
def fit(make_trainer, make_replies, retro, rows, tmp_path):
    """Tunes in tmp_path / name and gives the losses by step."""

    def run(name="run", *, module=None, data=None, **trainer):
        folder = tmp_path / name
        settings = {"max_steps": 3, "limit_val_batches": 0} | trainer
        make_trainer(folder, **settings).fit(module or make_module(retro), data or make_replies())
        return {step: row["train/loss"] for step, row in rows(folder).items()}

    return run


def plain_losses(model: GPT | Retro, data: RepliesData, gate: int = 0, steps: int = 3) -> dict[int, float]:
    """The same tuning, written down once more: mean over all the trained tokens of a step, AdamW, clipping."""
    data.setup("inspect")
    samples, losses = data.training_samples(), {}
    moving = [
        weight
        for name, weight in model.named_parameters()
        if gate or not (name.startswith("encoder.") or "cross_attention" in name)
    ]
    decay = [{"params": [w for w in moving if (w.ndim >= 2) == m], "weight_decay": 0.1 * m} for m in (1, 0)]
    optimizer = torch.optim.AdamW(decay, lr=RATE, betas=(0.9, 0.95))
    for step in range(steps):
        batch = samples[range(8 * step, 8 * step + 8)]
        if isinstance(model, Retro):
            neighbors = (batch.neighbor_tokens, batch.neighbor_mask) if gate else (None, None)
            hidden = model.hidden_states(batch.tokens, *neighbors, segments=batch.segments)
        else:
            hidden = model.hidden_states(batch.tokens, segments=batch.segments)
        kept = batch.loss_mask.bool()
        loss = F.cross_entropy(model.logits(hidden)[kept], batch.labels[kept])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        losses[step + 1] = loss.item()
    return losses


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("gate", [0, 1])
def test_the_logged_loss_is_that_of_a_plain_loop_over_whole_steps(gate, packed, fit, make_replies, retro):
    data = {"neighbors": 2 * gate, "packed": packed}
    tuned = fit(module=make_module(retro, gate=gate), data=make_replies(**data))
    assert tuned == pytest.approx(plain_losses(load_model(retro), make_replies(**data), gate), rel=1e-5)


@pytest.mark.parametrize("gate", [0, 1])
def test_how_a_step_is_divided_does_not_change_it(gate, fit, make_replies, retro, tmp_path):
    """8 samples at once, 4 x 2, 1 x 8, and 2 processes x 2 x 2: the same losses, norms and weights."""
    weights = {}
    for name, size, trainer in (
        ("8", 8, {}),
        ("2", 2, {}),
        ("1", 1, {}),
        ("two processes", 2, {"devices": 2, "strategy": "ddp_fork"}),
    ):
        data = make_replies(neighbors=2 * gate, micro_batch_size=size)
        losses = fit(name, module=make_module(retro, gate=gate), data=data, **trainer)
        weights[name] = (losses, load_model(newest_checkpoint(tmp_path / name)).state_dict())
    losses, state = weights.pop("8")
    assert len(losses) == 3
    for name, (others, tensors) in weights.items():
        assert others == pytest.approx(losses, rel=1e-5), name
        for key, tensor in tensors.items():
            # A bias of keys hardly changes a softmax: its gradient is the noise of sums, which AdamW makes large.
            assert "key_value.bias" in key or torch.allclose(tensor, state[key], atol=1e-4), (name, key)


def test_gate_0_leaves_encoder_and_cross_attention_alone_bit_for_bit(fit, retro, tmp_path):
    fit()
    before, after = load_model(retro).state_dict(), load_model(newest_checkpoint(tmp_path / "run")).state_dict()
    frozen = {name for name in before if name.startswith("encoder.") or "cross_attention" in name}
    assert any("cross_attention_norm" in name for name in frozen)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (name in frozen), name
    state = torch.load(newest_checkpoint(tmp_path / "run"), weights_only=True)["optimizer_states"][0]
    assert len(state["state"]) == len(before) - len(frozen)
    assert sum(len(group["params"]) for group in state["param_groups"]) == len(before) - len(frozen)


def test_gate_1_moves_every_weight_and_samples_without_neighbors_are_the_decoders(fit, make_replies, retro, tmp_path):
    fit(module=make_module(retro, gate=1), data=make_replies(neighbors=2))
    before, after = load_model(retro).state_dict(), load_model(newest_checkpoint(tmp_path / "run")).state_dict()
    assert not [name for name, tensor in before.items() if torch.equal(tensor, after[name])]
    data = make_replies(neighbors=2)
    data.setup("inspect")
    batch = data.training_samples()[range(4)]
    batch.neighbor_mask[2] = False
    module = make_module(retro, gate=1)
    module.configure_model()
    losses, alone = module.loss(batch).tokens, module.decoder.loss(batch.tokens, batch.labels).tokens
    assert torch.allclose(losses[2], alone[2], atol=1e-6)
    assert not torch.allclose(losses[1], alone[1], atol=1e-2)


@pytest.mark.parametrize(("gate", "samples"), [(1, 4), (1, 1), (0, 4)])
def test_replies_are_evaluated_with_every_kind_of_neighbors(gate, samples, make_replies, retro):
    data = make_replies(neighbors=2)
    data.setup("inspect")
    batch = data.training_samples()[range(samples)]
    module = make_module(retro, gate=gate)
    module.configure_model()
    module.start_evaluation("test")
    losses = module.evaluate(batch, 0)
    alone = module.decoder.loss(batch.tokens, batch.labels).tokens
    if not gate:
        assert list(losses) == ["gpt"]
        torch.testing.assert_close(losses["gpt"], alone)
        return
    torch.testing.assert_close(losses["retrieved"], module.loss(batch).tokens)
    torch.testing.assert_close(losses["none"], alone)
    others = replace(batch)
    others.neighbor_tokens = torch.cat([batch.neighbor_tokens[-1:], batch.neighbor_tokens[:-1]])
    others.neighbor_mask = torch.cat([batch.neighbor_mask[-1:], batch.neighbor_mask[:-1]])
    if samples == 1:  # of the chunk before
        order = [batch.neighbor_tokens.shape[1] - 1, *range(batch.neighbor_tokens.shape[1] - 1)]
        others.neighbor_tokens, others.neighbor_mask = batch.neighbor_tokens[:, order], batch.neighbor_mask[:, order]
    torch.testing.assert_close(losses["random"], module.loss(others).tokens)
    assert not torch.allclose(losses["random"], losses["retrieved"])


def test_a_gpt_is_tuned_as_the_decoder_of_a_retro(fit, retro, tmp_path):
    """The paper's baseline, through the same code."""
    retros = fit("retro")
    assert fit("gpt", module=make_module(retro.with_name("gpt"), DECODER)) == retros
    tuned = load_model(newest_checkpoint(tmp_path / "gpt"))
    assert isinstance(tuned, GPT)
    for name, tensor in load_model(newest_checkpoint(tmp_path / "retro")).to_gpt().state_dict().items():
        assert torch.equal(tensor, tuned.state_dict()[name]), name


@pytest.mark.parametrize("gate", [0, 1])
def test_adapters_alone_are_trained_and_become_part_of_the_model(gate, fit, make_replies, retro, tmp_path):
    module = make_module(retro, gate=gate, lora=LoRAConfig(rank=2, alpha=8))
    data = make_replies(neighbors=2 * gate)
    losses = fit(module=module, data=data)
    assert losses[3] < losses[1]
    before, model = load_model(retro), module.model
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(tensor, before.state_dict()[name]), name
    adapters = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert adapters
    assert all(".lora_" in name for name in adapters)
    assert any(name.startswith("encoder.") for name in adapters) == bool(gate)
    saved = torch.load(newest_checkpoint(tmp_path / "run"), weights_only=True)
    assert len(saved["optimizer_states"][0]["state"]) == len(adapters)
    save_model(model, tmp_path / "merged")
    batch = data.training_samples()[range(4)]
    with torch.no_grad():
        expected = module.eval().loss(batch).tokens
        for path in (tmp_path / "merged", newest_checkpoint(tmp_path / "run")):
            merged = make_module(path, gate=gate)
            merged.configure_model()
            assert merged.model.state_dict().keys() == before.state_dict().keys()
            assert torch.allclose(merged.eval().loss(batch).tokens, expected, atol=1e-5)
    assert not torch.allclose(expected, _loss(before, batch, gate), atol=1e-2)


def test_adapters_begin_as_nothing_and_a_run_with_them_goes_on(fit, retro, tmp_path, make_trainer, make_replies, rows):
    whole = fit("whole", module=make_module(retro, lora=LoRAConfig(rank=2)), every=2)
    assert whole[1] == pytest.approx(plain_losses(load_model(retro), make_replies(), steps=1)[1], rel=1e-5)
    module = make_module(retro, lora=LoRAConfig(rank=2))
    module.starts_fresh = False
    checkpoint = tmp_path / "whole/checkpoints/step-00000002.ckpt"
    trainer = make_trainer(tmp_path / "second", max_steps=3, limit_val_batches=0)
    trainer.fit(module, make_replies(), ckpt_path=checkpoint)
    assert rows(tmp_path / "second")[3]["train/loss"] == whole[3]
    other = make_module(retro, lora=LoRAConfig(rank=3))
    other.starts_fresh = False
    with pytest.raises(ValueError, match=r"other settings: model.lora.rank was 2, is now 3"):
        make_trainer(tmp_path / "third", max_steps=3).fit(other, make_replies(), ckpt_path=checkpoint)


def _loss(model: Retro, batch: Batch, gate: int) -> torch.Tensor:
    with torch.no_grad():
        neighbors = (batch.neighbor_tokens, batch.neighbor_mask) if gate else (None, None)
        return model.loss(batch.tokens, batch.labels, None, *neighbors).tokens


def test_a_step_that_trains_nothing_changes_nothing(fit, make_replies, retro, tmp_path):
    data = make_replies()
    samples = data.training_samples

    def nothing():
        replies = samples()
        return _Silent(replies, False)

    data.training_samples = nothing
    module = make_module(retro)
    module.optimizer_config = replace(module.optimizer_config, weight_decay=0.0)
    assert fit(module=module, data=data)[1] == 0
    after = load_model(newest_checkpoint(tmp_path / "run")).state_dict()
    for name, tensor in load_model(retro).state_dict().items():
        assert torch.equal(tensor, after[name]), name


class _Silent(Replies):
    def __getitem__(self, numbers) -> Batch:
        batch = super().__getitem__(numbers)
        batch.loss_mask = torch.zeros_like(batch.loss_mask)
        return batch


def test_what_does_not_fit_is_refused(fit, make_replies, retro):
    with pytest.raises(ValueError, match=r"model.gate: expected 0 or 1, got 2"):
        make_module(retro, gate=2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"model.gate: expected 0 for a GPT, which reads no neighbors, got 1"):
        make_module(retro, DECODER, gate=1)
    with pytest.raises(ValueError, match=r"model.init_from: expected the model folder or checkpoint to tune, got none"):
        fit(module=InstructRetroModule(RETRO))
    with pytest.raises(ValueError, match=r"data.num_neighbors: expected 0, as model.gate 0 reads no neighbors, got 2"):
        fit(data=make_replies(neighbors=2))
    with pytest.raises(ValueError, match=r"data.num_neighbors: expected model.config.num_neighbors \(2\), got 0"):
        fit(module=make_module(retro, gate=1))
    with pytest.raises(ValueError, match=r"model.init_from: .* holds a GPT, expected a Retro"):
        fit(module=make_module(retro.with_name("gpt")))
