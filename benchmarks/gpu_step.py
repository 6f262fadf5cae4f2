"""The 843m models of InstructRetro on one GPU: tokens a second, share of the GPU's FLOPs (MFU), and memory.

    python -m benchmarks.gpu_step [--out FILE] [--variants "retro bf16-mixed compiled" ...]
    python -m benchmarks.gpu_step --tiny          # a small model on the CPU, to see that it runs

Model, sequence length and global batch are those of recipes/instructretro/{gpt,retro}-843m.yaml. A variant is a model,
a precision (bf16-mixed: float32 weights under autocast, as recipes/hardware/one_gpu.yaml trains; bf16-true: all of it)
and whether it is compiled; each runs in a process of its own, with a time limit, and its line of JSON is appended to
FILE as soon as it is known. The micro-batch is the largest of a few that is planned to fit, or else the next.

A step is the global batch: as many micro-batches as that takes (forward and backward, gradients accumulated), then
clipping and fused AdamW. Both are timed by CUDA events over several rounds, medians; tokens and neighbors are random, a
tenth of the neighbors half padding. FLOPs are the model's (retrolit.planning), attention counted in full, recomputation
not. Memory is the most that was allocated, beside what retrolit.planning has planned.

Goals: MFU 45 %; a Retro step at most 1.25 times as long as a GPT step; memory within 10 % of what is planned.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.machine import describe
from retrolit.checkpoint.model_types import empty_model
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.planning import Cluster, MicroBatch
from retrolit.planning.gpus import GPUS
from retrolit.planning.memory import memory
from retrolit.planning.size import flops_by_part, size_of

RECIPES = Path(__file__).parents[1] / "recipes" / "instructretro"
VARIANTS = [
    f"{model} {precision} {how}"
    for precision, how in (("bf16-mixed", "compiled"), ("bf16-true", "compiled"), ("bf16-mixed", "eager"))
    for model in ("gpt", "retro")
]
MICRO_BATCHES = (16, 8, 4, 2, 1)
ROUNDS, MICRO_BATCHES_A_ROUND = 5, 3
FREE = 0.1  # of the GPU's memory, for what is not planned
MFU_GOAL, RATIO_GOAL = 0.45, 1.25
TINY = {
    "vocab_size": 512, "num_layers": 9, "hidden_size": 64, "num_attention_heads": 4, "ffn_hidden_size": 128,
    "max_position_embeddings": 256,
}  # fmt: skip


@dataclass
class Work:
    """What a recipe trains, as far as a step is concerned."""

    config: GPTConfig | RetroConfig
    length: int
    global_batch: int


def work_of(model: str, tiny: bool) -> Work:
    """Of recipes/instructretro/MODEL-843m.yaml, or of a small model with the same switches."""
    recipe = yaml.safe_load((RECIPES / f"{model}-843m.yaml").read_text(encoding="utf-8"))
    values, data = recipe["model"]["init_args"]["config"], recipe["data"]["init_args"]
    length, global_batch = data["sequence_length"], data["global_batch_size"]
    if tiny:
        (values["decoder"] if model == "retro" else values).update(TINY)
        length, global_batch = TINY["max_position_embeddings"], 2 * MICRO_BATCHES_A_ROUND
    config = RetroConfig.from_dict(values) if model == "retro" else GPTConfig.from_dict(values)
    return Work(config, length, global_batch)


def measure(variant: str, tiny: bool) -> dict[str, Any]:
    """Everything about one variant, on this process's device."""
    model, precision, how = variant.split()
    work = work_of(model, tiny)
    size = size_of(empty_model(work.config))
    room = 2**30 if tiny else torch.cuda.get_device_properties(0).total_memory * (1 - FREE)
    for samples in (2,) if tiny else MICRO_BATCHES:
        batch = MicroBatch(samples, work.length, precision, compiled=how == "compiled")
        planned = memory(work.config, size, batch, "single").total
        if planned > room:
            continue
        try:
            measured = Step(work, batch).figures()
        except torch.OutOfMemoryError:
            measured = None
        if measured is not None:
            return {"variant": variant, "micro_batch": samples, "planned_bytes": planned} | measured
        gc.collect()
        torch.cuda.empty_cache()
        torch.compiler.reset()
    raise SystemExit(f"{variant}: none of the micro-batches fits")


class Step:
    """A model, its optimizer, and some batches that take turns."""

    def __init__(self, work: Work, batch: MicroBatch) -> None:
        self.work, self.batch = work, batch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        with self.device:
            self.model = Retro(work.config) if isinstance(work.config, RetroConfig) else GPT(work.config)
        if batch.precision == "bf16-true":
            self.model.to(torch.bfloat16)
        if batch.compiled:
            self.model.compile_layers()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.accumulated = max(1, work.global_batch // batch.samples)
        self.inputs = self.endless([self.random_inputs() for _ in range(3)])

    def figures(self) -> dict[str, Any]:
        """Seconds, tokens a second, MFU, bytes."""
        began = time.perf_counter()
        first_loss = self.micro_batch()
        warm_up = time.perf_counter() - began
        for _ in range(2):
            self.micro_batch()
        norm = self.update()
        self.micro_batch()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        forward_backward, update = [], []
        for _ in range(ROUNDS):
            forward_backward.append(
                self.seconds(lambda: [self.micro_batch() for _ in range(MICRO_BATCHES_A_ROUND)]) / MICRO_BATCHES_A_ROUND
            )
            update.append(self.seconds(self.update))
        peak = torch.cuda.max_memory_allocated() if cuda else 0
        micro_batch, step = statistics.median(forward_backward), statistics.median(update)
        seconds = self.accumulated * micro_batch + step
        tokens = self.accumulated * self.batch.tokens / seconds
        flops = sum(flops_by_part(self.model, self.work.length).values())
        return {
            "micro_batch_seconds": micro_batch,
            "spread": (max(forward_backward) - min(forward_backward)) / micro_batch,
            "optimizer_seconds": step,
            "step_seconds": seconds,
            "tokens_per_second": tokens,
            "flops_per_token": flops,
            "mfu": flops * tokens / peak_flops() if cuda else None,
            "peak_bytes": peak,
            "first_loss": float(first_loss),
            "gradient_norm": float(norm),
            "first_micro_batch_seconds": warm_up,
            "kernels": self.kernels() if cuda else [],
        }

    def micro_batch(self) -> Tensor:
        """Forward and backward; the loss."""
        mixed = self.batch.precision == "bf16-mixed"
        with torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext():
            loss = self.model.loss(*next(self.inputs)).mean / self.accumulated
        loss.backward()
        return loss.detach() * self.accumulated

    def update(self) -> Tensor:
        """Clipping and AdamW; the norm of the gradients."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def random_inputs(self) -> list[Any]:
        """What `loss` takes: tokens and labels, a Retro's neighbors with their mask."""
        config, length, samples = self.work.config, self.work.length, self.batch.samples
        vocabulary = (config.decoder if isinstance(config, RetroConfig) else config).vocab_size
        tokens = torch.randint(0, vocabulary, (samples, length + 1), device=self.device)
        inputs: list[Any] = [tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()]
        if isinstance(config, RetroConfig):
            shape = (samples, length // config.chunk_length, config.num_neighbors, config.retrieved_length)
            mask = torch.ones(shape, dtype=torch.bool, device=self.device)
            padded = torch.rand(shape[:3], device=self.device) < 0.1
            mask[..., config.chunk_length :] &= ~padded[..., None]
            inputs += [None, torch.randint(0, vocabulary, shape, device=self.device), mask]
        return inputs

    @staticmethod
    def endless(inputs: list[list[Any]]) -> Iterator[list[Any]]:
        """One after the other, again and again."""
        while True:
            yield from inputs

    def seconds(self, work: Callable[[], object]) -> float:
        """By CUDA events, or by the clock on a CPU."""
        if self.device.type == "cpu":
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def kernels(self, most: int = 25) -> list[tuple[str, float, int]]:
        """Name, milliseconds and calls of the kernels that one micro-batch spends most time in."""
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            self.micro_batch()
            torch.cuda.synchronize()
        events = [(event.key, event.self_device_time_total / 1000, event.count) for event in profile.key_averages()]
        return sorted(events, key=lambda event: -event[1])[:most]


def peak_flops() -> float:
    """Dense bfloat16 FLOP/s of this GPU by its data sheet."""
    device = torch.cuda.get_device_name()
    name = next((name for name in GPUS if name in device), None)
    assert name is not None, f"expected one of {', '.join(GPUS)}, got {device}"
    peak = Cluster(gpus=1, gpu=name).peak_flops
    assert peak is not None
    return peak


def product_rate() -> float:
    """FLOP/s of one large bfloat16 product of random numbers: what this very GPU reaches."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for count in (3, 20):
        start.record()
        for _ in range(count):
            torch.mm(a, b)
        end.record()
        torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (start.elapsed_time(end) / 1000)


def run_variants(variants: list[str], out: Path, seconds: float, tiny: bool) -> dict[str, dict[str, Any]]:
    """The figures of those that finished in time, each from a process of its own."""
    figures: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    for variant in variants:
        left = seconds - (time.monotonic() - began)
        if left < 15:
            print(f"{variant}: no time is left", flush=True)
            continue
        limit = min(left, seconds / 2)
        command = [sys.executable, "-m", "benchmarks.gpu_step", "--measure", variant, *(["--tiny"] if tiny else [])]
        try:
            result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            print(f"{variant}: stopped after {limit:.0f} s", flush=True)
            continue
        if result.returncode:
            print(f"{variant}: failed\n{result.stderr[-3000:]}", flush=True)
            continue
        line = result.stdout.strip().splitlines()[-1]
        figures[variant] = json.loads(line)
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        tell(figures[variant])
    return figures


def tell(figures: dict[str, Any]) -> None:
    """One line about a variant, and below it where its time goes."""
    measured, planned = figures["peak_bytes"] / 2**30, figures["planned_bytes"] / 2**30
    print(
        f"{figures['variant']:26} micro-batch {figures['micro_batch']:2}: "
        f"{figures['micro_batch_seconds'] * 1000:7.1f} ms (spread {figures['spread']:.1%}), "
        f"optimizer {figures['optimizer_seconds'] * 1000:5.1f} ms, "
        f"{figures['tokens_per_second']:8.0f} tokens/s, MFU {figures['mfu'] or 0:.1%} (goal {MFU_GOAL:.0%}), "
        f"memory {measured:5.1f} GiB (planned {planned:5.1f}), loss {figures['first_loss']:.4f}, "
        f"gradient norm {figures['gradient_norm']:.4f}, first {figures['first_micro_batch_seconds']:.0f} s",
        flush=True,
    )
    for name, milliseconds, calls in figures["kernels"][:12]:
        print(f"    {milliseconds:8.2f} ms {calls:4} x {name[:100]}", flush=True)


def main() -> None:
    """Measures the variants and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_step.jsonl"), help="where lines of JSON are appended")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="which, in this order")
    parser.add_argument("--seconds", type=float, default=235, help="for all of them")
    parser.add_argument("--tiny", action="store_true", help="a small model, on the CPU")
    parser.add_argument("--measure", choices=VARIANTS, help="measure one in this process, print its line of JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.tiny)))
        return
    print(describe(), flush=True)
    if not arguments.tiny:
        print(f"bfloat16 product of 8192: {product_rate() / 1e12:.0f} TFLOP/s", flush=True)
        torch.cuda.empty_cache()
    figures = run_variants(arguments.variants, arguments.out, arguments.seconds, arguments.tiny)
    for gpt, retro in zip(VARIANTS[::2], VARIANTS[1::2], strict=True):
        if gpt in figures and retro in figures:
            ratio = figures[gpt]["tokens_per_second"] / figures[retro]["tokens_per_second"]
            flops = figures[retro]["flops_per_token"] / figures[gpt]["flops_per_token"]
            print(f"{retro} / {gpt}: step {ratio:.3f} (goal {RATIO_GOAL}), FLOPs {flops:.3f}")


if __name__ == "__main__":
    main()
