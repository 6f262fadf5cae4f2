"""Plans as text: for the terminal, and as the tables of docs/sizes.md."""

from __future__ import annotations

from retrolit.models import RetroConfig
from retrolit.planning import Cluster, DatabasePlan, Memory, Rates, Run, TrainingPlan

FREE = 0.1
"""Share of a GPU's memory that a plan leaves to what it does not count."""

GIB = 2**30


def show_training(run: Run, cluster: Cluster, plan: TrainingPlan) -> str:
    """The lines that `retrolit plan` prints of a training recipe."""
    kind = "Retro" if isinstance(run.config, RetroConfig) else "GPT"
    trained = "all trained" if plan.size.trained == plan.size.total else f"{plan.size.trained:,} of them trained"
    most = max(memory.total for memories in plan.memory.values() for memory in memories)
    unit, name_of_unit = (GIB, "GiB") if most >= GIB else (2**20, "MiB")
    lines = [
        f"model       {kind}, {plan.size.total:,} parameters, {trained}",
        *(f"            {name:16} {count:>16,}" for name, count in plan.size.parameters.items() if count),
        f"FLOPs       {number(plan.flops_per_token)} a token, forward and backward",
        *(
            f"            {name:16} {number(count):>16} {count / plan.flops_per_token:>6.1%}"
            for name, count in plan.flops.items()
        ),
        f"run         {run.steps:,} steps x {run.global_batch_size:,} samples x {run.batch.length:,} tokens = "
        f"{number(plan.tokens)} tokens",
        f"time        {duration(plan.seconds)} on {cluster.gpus:,} x {cluster.gpu} at {cluster.mfu:.0%} of "
        f"{(cluster.peak_flops or 0) / 1e12:,.0f} TFLOP/s: {plan.gpu_hours:,.0f} GPU hours",
        f"memory      {name_of_unit} on one GPU of {cluster.memory_gib:g} GiB, "
        f"{run.batch.samples} x {run.batch.length:,} tokens at a time, {run.batch.precision}"
        f"{', compiled' if run.batch.compiled else ''}",
        f"            {'':22} {'weights':>9} {'gradients':>9} {'optimizer':>9} {'copies':>9} {'activations':>11} "
        f"{'together':>9}",
    ]
    for strategy, memories in plan.memory.items():
        for name, memory in zip((strategy, "  checkpointed"), memories, strict=True):
            parts = (memory.weights, memory.gradients, memory.optimizer, memory.copies)
            verdict = "fits" if fits(memory, cluster) else ""
            lines.append(
                f"            {name:22} {' '.join(f'{part / unit:9.1f}' for part in parts)} "
                f"{memory.activations / unit:11.1f} {memory.total / unit:9.1f} {verdict}".rstrip()
            )
    micro, batch = run.batch.samples, run.global_batch_size
    for strategy in plan.memory:
        groups = {"single": 1, "fsdp+tp": cluster.gpus // cluster.tensor_parallel_size}.get(strategy, cluster.gpus)
        if batch % (micro * groups):
            lines.append(
                f"note        {strategy}: {groups:,} times {micro} samples do not divide the global batch of "
                f"{batch:,}; change data.micro_batch_size or the cluster"
            )
    return "\n".join(lines)


def show_database(plan: DatabasePlan, rates: Rates) -> str:
    """The lines that `retrolit plan` prints of a data.yaml."""
    return "\n".join(
        [
            f"database    {plan.chunks:,} chunks, {size(plan.token_bytes)} of tokens; a chunk itself is not stored",
            f"embeddings  {size(plan.embedding_bytes)} on disk, {plan.dimension} float16 each",
            f"index       {plan.index.factory}: {size(plan.index.bytes)} on disk, memory-mapped or in memory when "
            "searched",
            f"            {plan.index.training_vectors:,} vectors to train it, {size(plan.training_bytes)} in memory",
            f"neighbors   {plan.queries:,} chunks have theirs saved: {size(plan.table_bytes)}",
            *(
                f"{name:11} {hours:,.1f} hours of one worker, {hours / rates.workers:,.1f} of {rates.workers:,}"
                for name, hours in (("embed", plan.embed_hours), ("add", plan.add_hours), ("query", plan.query_hours))
            ),
        ]
    )


def fits(memory: Memory, cluster: Cluster) -> bool:
    """Whether a GPU holds it and keeps some free."""
    return memory.total <= (1 - FREE) * cluster.memory_bytes


def size(count: float) -> str:
    """Bytes for people."""
    for unit, name in ((1e12, "TB"), (1e9, "GB")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count / 1e6:,.1f} MB"


def number(count: float) -> str:
    """A count for people, in thousands of thousands."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Days, hours or minutes."""
    for unit, name in ((86400, "days"), (3600, "hours")):
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 60:,.1f} minutes"
