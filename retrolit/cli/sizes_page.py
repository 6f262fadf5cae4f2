"""docs/sizes.md: what every recipe of recipes/instructretro is going to need, and the paper's own accounts beside ours.

python -m retrolit.cli.sizes_page > docs/sizes.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import yaml

from retrolit.cli.parser import Parser
from retrolit.cli.plan import read_recipe
from retrolit.cli.recipes import recipe_folder
from retrolit.cli.show_plan import GIB, duration, fits, number, size
from retrolit.planning import Cluster, Database, DatabasePlan, Rates, Run, TrainingPlan, plan_database, plan_training
from retrolit.planning.paper import ACCOUNTS
from retrolit.retrieval.prepare import RetrievalConfig

GPUS = {"843m": 64, "2b": 64, "8b": 128, "22b": 256, "43b": 512}
"""A100s to plan with; 843m and 43b had as many in NVIDIA's scripts."""

MFU = 0.4

DATABASES = {
    "data-wikipedia": Database(tokens=4.3e9, documents=0, dimension=None),
    "data-paper": Database(tokens=1.2e12, documents=0, stream_tokens=100e9, dimension=1024),
}

HEAD = f"""\
# Sizes

What every recipe of `recipes/instructretro` is going to need, before it is started. [Planning](planning.md) says how
the numbers are come by. This page is generated: `python -m retrolit.cli.sizes_page > docs/sizes.md`. Of one recipe, on
your cluster: `retrolit plan -c recipes/instructretro/retro-43b.yaml --cluster.gpus 512 --cluster.gpu A100`.

The cluster here is of A100s of 80 GiB, {", ".join(f"{count} for {name}" for name, count in GPUS.items())}, at
{MFU:.0%} of their peak.
"""


def page(models: Iterable[str] = tuple(GPUS)) -> str:
    """The whole page, or one that knows of these models alone."""
    plans = {name: (run, cluster, plan_training(run, cluster)) for name, run, cluster in _recipes(models)}
    parts = [HEAD, _runs(plans), _overheads(plans), _memory(plans), _databases()]
    return "\n".join(parts)


Plans = dict[str, tuple[Run, Cluster, TrainingPlan]]


def _recipes(models: Iterable[str]) -> Iterator[tuple[str, Run, Cluster]]:
    """Every training recipe, small before large, first stage first."""
    for model in models:
        for stage in ("gpt", "retro", "instruct", "instruct-gpt"):
            path = recipe_folder() / "instructretro" / f"{stage}-{model}.yaml"
            if path.is_file():
                cluster = ["--cluster.gpus", str(GPUS[model]), "--cluster.gpu", "A100", "--cluster.mfu", str(MFU)]
                yield path.stem, *read_recipe(["-c", str(path), *cluster])


def _runs(plans: Plans) -> str:
    lines = [
        "## Parameters, FLOPs, days",
        "",
        "| recipe | parameters | of them encoder and cross-attention | FLOPs a token | tokens | GPU hours | on "
        "| takes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (_, cluster, plan) in plans.items():
        new = plan.size.parameters.get("encoder", 0) + plan.size.parameters.get("cross-attention", 0)
        lines.append(
            f"| {name} | {plan.size.total:,} | {f'{new:,}' if new else '-'} | {number(plan.flops_per_token)} | "
            f"{number(plan.tokens)} | {plan.gpu_hours:,.0f} | {cluster.gpus} A100 | {duration(plan.seconds)} |"
        )
    return "\n".join([*lines, ""])


def _overheads(plans: Plans) -> str:
    lines = [
        "## What retrieval costs: the paper's account and ours",
        "",
        "arXiv 2310.07713 gives A100 hours for 100 billion tokens, of the GPT that goes on without retrieval and of",
        "the Retro. Over all 1.2 trillion tokens, of which 1.1 are the GPT's alone, a twelfth of the overhead is left:",
        "2.58 % for 48b. Ours is the ratio of the FLOPs of matrix products and attention. From hours and FLOPs",
        "together follows which share of an A100's peak (312 TFLOP/s) their runs reached.",
        "",
        "| model | hours GPT | hours Retro | paper's overhead | overall | FLOPs of Retro over GPT | of the peak: GPT "
        "| Retro |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, account in ((model, account) for model, account in ACCOUNTS.items() if f"retro-{model}" in plans):
        gpt, retro = plans[f"gpt-{model}"][2].flops_per_token, plans[f"retro-{model}"][2].flops_per_token
        lines.append(
            f"| {model} | {account.gpt_hours:,} | {account.retro_hours:,} | {account.overhead:.1%} | "
            f"{account.overall:.2%} | {retro / gpt - 1:.1%} | {account.mfu(gpt, retro=False):.1%} | "
            f"{account.mfu(retro, retro=True):.1%} |"
        )
    return "\n".join([*lines, "", WHY])


WHY = """\
The paper prints whole per cents (36, 27, 37, 37, 31) and divides those by 12: 31 / 12 = 2.58; its hours give 2.60.

8b and 22b agree within a point. Where they do not, the hours and not the products differ:

- 843m: 36 % of hours for 23 % of FLOPs. The output layer over 256,000 words is a third of this GPT's products and
  hides the encoder's. In hours it does not: probably because at a width of 1,024 a step is bound by memory and by
  starting kernels (29 % of the peak without retrieval, 26 % with it), and NVIDIA's encoder and cross-attention run
  unfused attention.
- 2b: 27 % of hours for 33 % of FLOPs. The Retro reached more of the peak than its GPT, 37 % against 35 %; perhaps the
  two ran on different numbers of nodes.
- 43b to 48b: 31 % of hours for 38 % of FLOPs, 46 % of the peak against 44 %. Perhaps because under tensor
  parallelism of 8 a Retro's additional products come with fewer all-reduces a FLOP than the decoder's layers.

The reasons are ours; the paper gives none.
"""


def _memory(plans: Plans) -> str:
    lines = [
        "## Memory of one GPU",
        "",
        "GiB with the recipe's micro-batch, without and with activation checkpointing; **bold** where it leaves a",
        "tenth of 80 GiB free. Weights, gradients and AdamW's state are fsdp's share, 16 bytes a parameter over all.",
        "",
        "| recipe | samples | weights, gradients, optimizer | single | ddp | fsdp | fsdp+tp |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (run, cluster, plan) in plans.items():
        shard = plan.memory["fsdp"][0]
        states = (shard.weights + shard.gradients + shard.optimizer) / GIB
        cells = []
        for memories in plan.memory.values():
            texts = [f"{memory.total / GIB:,.1f}" for memory in memories]
            texts = [f"**{text}**" if fits(m, cluster) else text for text, m in zip(texts, memories, strict=True)]
            cells.append(" / ".join(texts))
        lines.append(f"| {name} | {run.batch.samples} | {states:.1f} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _databases() -> str:
    lines = [
        "## Databases",
        "",
        "Hours of one worker, by the rates that [Planning](planning.md) names; they divide among as many as there are.",
        "",
        "| recipe | tokens | chunks | token store | embeddings | index | to train it, in memory | neighbors | embed "
        "| add | query |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, database in DATABASES.items():
        plan = _database_plan(name, database)
        lines.append(
            f"| {name} | {number(database.tokens)} | {plan.chunks:,} | {size(plan.token_bytes)} | "
            f"{size(plan.embedding_bytes)} | {plan.index.factory}, {size(plan.index.bytes)} | "
            f"{size(plan.training_bytes)} | {size(plan.table_bytes)} | {plan.embed_hours:,.1f} | "
            f"{plan.add_hours:,.1f} | {plan.query_hours:,.1f} |"
        )
    return "\n".join([*lines, "", PAPER_DATABASE])


PAPER_DATABASE = """\
The paper's: 19 billion chunks; 3,054 A100 hours to embed, 192 core hours to add, 1,736 core hours to search the
neighbors of 100 billion tokens. Full chunks of 1.2 trillion tokens are 18.75 billion: the rest are the documents' short
last ones. 64-byte codes with 8-byte ids of them are 1.35 TB, so the paper's "less than 1 TB" cannot be 64 bytes.
"""


def _database_plan(name: str, database: Database) -> DatabasePlan:
    content = yaml.safe_load((recipe_folder() / "instructretro" / f"{name}.yaml").read_text(encoding="utf-8"))
    parser = Parser()
    parser.add_class_arguments(RetrievalConfig, "retrieval")
    settings = parser.instantiate(parser.parse_object({"retrieval": content["retrieval"]}))
    return plan_database(settings.retrieval, database, Rates())


if __name__ == "__main__":
    print(page(), end="")
