"""The same recipe under another strategy gives the same numbers: several processes on the CPU against one."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from retrolit import save_model
from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.models.lora import LoRAConfig
from retrolit.training import (
    GPTModule,
    InstructRetroModule,
    OptimizerConfig,
    PretrainingData,
    RetroModule,
    ScheduleConfig,
    ShardedStrategy,
)
from tests.training.small_retro import RETRIEVAL, save_moved

DECODER = GPTConfig(
    vocab_size=258, hidden_size=16, num_layers=2, num_attention_heads=4, num_query_groups=2, max_position_embeddings=32
)
RETRO = RetroConfig(DECODER, retro_layers=[1, 2], chunk_length=8, encoder_layers=2)
OTHER = replace(
    DECODER, normalization="rmsnorm", activation="swiglu", qk_norm=True, tied_embeddings=True, bias=False,
    position_embedding="learned", final_norm=False,
)  # fmt: skip


def make_cases(many: Any, folder: Path, data_config: Any) -> list[Any]:
    """What is trained: every module, precisions, weights from folders."""
    retro = save_moved(RETRO, folder / "retro")
    assert isinstance(retro, Retro)
    save_model(retro.decoder, folder / "gpt")
    settings = {"sequence_length": 32, "global_batch_size": 8, "micro_batch_size": 2, "chunk_length": 8}
    read = {"num_neighbors": 2, "num_retrieved_chunks": 2}
    data = partial(PretrainingData, data_config, **settings)
    retrieved = partial(PretrainingData, replace(data_config, retrieval=RETRIEVAL), **settings, **read)
    replies = partial(many.Replies, data_config, **settings)
    replies_read = partial(many.Replies, replace(data_config, retrieval=RETRIEVAL), **settings, **read)
    how: dict[str, Any] = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": ScheduleConfig("constant")}
    again = {"checkpoint_activations": True}
    tune = partial(InstructRetroModule, RETRO, init_from=str(folder / "retro"), **how)
    fit = partial(RetroModule, RETRO, retrofit_from=str(folder / "gpt"), **how)
    silent: dict[str, Any] = {"limit_val_batches": 0}
    cases = {
        "gpt": (partial(GPTModule, DECODER, **how), data, silent),
        "other": (partial(GPTModule, OTHER, **how, **again), data, silent),
        "gpt bf16-mixed": (partial(GPTModule, DECODER, **how), data, silent | {"precision": "bf16-mixed"}),
        "gpt bf16-true": (partial(GPTModule, DECODER, **how), data, silent | {"precision": "bf16-true"}),
        "retro": (partial(RetroModule, RETRO, **how, **again), retrieved, {}),
        "compiled": (partial(many.Compiled, RETRO, **how), retrieved, silent),
        "fitted": (partial(fit, train="new"), retrieved, silent),
        "gate 0": (partial(tune, gate=0), replies, silent),
        "gate 1": (partial(tune, gate=1), replies_read, silent),
        "adapters": (partial(tune, gate=1, lora=LoRAConfig(rank=2)), replies_read, silent),
    }
    return [many.Case(name, *case) for name, case in cases.items()]


CASES = (
    "gpt",
    "other",
    "gpt bf16-mixed",
    "gpt bf16-true",
    "retro",
    "compiled",
    "fitted",
    "gate 0",
    "gate 1",
    "adapters",
)

SHARED_PRODUCTS = tuple(name for name in CASES if name not in ("adapters", "compiled"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_config: Any) -> Callable[[str, str], tuple[dict, dict, dict]]:
    """Metrics by step, first and last weights of a case under a strategy; all of them have been run by then."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "children")
        many = importlib.import_module("many")
        cases = make_cases(many, folder, data_config)
        assert tuple(case.name for case in cases) == CASES
        for case in cases:
            one = folder / f"{case.name} one"
            weights = many.train(case, one)
            torch.save(weights, one / "weights.pt")
        shared = [case for case in cases if case.name in SHARED_PRODUCTS]
        start(many, folder, cases, {"ddp": partial(str, "ddp"), "fsdp2": ShardedStrategy}, 2)
        start(many, folder, shared, {"tp": partial(ShardedStrategy, tensor_parallel=2)}, 2)
        start(many, folder, cases[:1], {"offload": partial(ShardedStrategy, cpu_offload=True)}, 2)
        both = [case for case in cases if case.name in ("other", "retro")]
        start(many, folder, both, {"fsdp2 tp": partial(ShardedStrategy, tensor_parallel=2)}, 4)

    def read(case: str, strategy: str) -> tuple[dict, dict, dict]:
        lines = map(json.loads, (folder / f"{case} {strategy}" / "metrics.jsonl").read_text().splitlines())
        rows: dict[int, dict[str, float]] = {}
        for line in lines:
            rows.setdefault(line["step"], {}).update(line)
        first, last = torch.load(folder / f"{case} {strategy}" / "weights.pt")
        return rows, first, last

    return read


def start(many: Any, folder: Path, cases: list[Any], strategies: dict[str, Any], processes: int) -> None:
    """Run the cases under the strategies in so many processes."""
    (folder / "cases").write_bytes(pickle.dumps((cases, strategies)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrolit.cli.fit"])
    port = find_free_network_port()
    started = [
        context.Process(target=many.run, args=(folder / "cases", rank, processes, port)) for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=240)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * processes


@pytest.mark.parametrize(
    ("strategy", "cases"),
    [
        ("ddp", CASES),
        ("fsdp2", CASES),
        ("tp", SHARED_PRODUCTS),
        ("fsdp2 tp", ("other", "retro")),
        ("offload", ("gpt",)),
    ],
)
def test_a_strategy_gives_the_numbers_of_one_process(runs, strategy, cases) -> None:
    """First weights to the bit, losses and norms of gradients (before clipping) at every step, weights at the end."""
    for case in cases:
        (rows, first, last), (expected, first_expected, last_expected) = runs(case, strategy), runs(case, "one")
        assert first.keys() == first_expected.keys()
        for name, weight in first.items():
            assert torch.equal(weight, first_expected[name]), (case, name)
        assert set(rows) == set(expected) == {1, 2, 3}
        near = 1e-2 if "bf16" in case else 2e-6
        for step, row in rows.items():
            assert row.keys() == expected[step].keys()
            for name in set(row) & {"train/loss", "train/gradient_norm", "val/loss", "val/bits_per_byte_none"}:
                assert row[name] == pytest.approx(expected[step][name], rel=near), (case, step, name)
        for name, weight in last.items():
            distance = (weight - last_expected[name]).abs().max().item()
            assert distance < (5e-2 if "bf16" in case else 1e-4), (case, name)  # AdamW makes much of small gradients
            if not first[name].equal(last_expected[name]):
                assert not weight.equal(first[name]), (case, name)
