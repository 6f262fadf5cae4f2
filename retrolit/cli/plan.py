"""plan: what a training run, or a retrieval database, is going to need, said before anything is started."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from retrolit.cli.fit import TrainerCLI
from retrolit.cli.parser import Parser, run
from retrolit.cli.show_plan import show_database, show_training
from retrolit.cli.trainer_parser import CommandLineMistake
from retrolit.models import GPTConfig, RetroConfig
from retrolit.planning import Cluster, Database, MicroBatch, Rates, Run, plan_database, plan_training
from retrolit.planning.size import Trained
from retrolit.retrieval.card import Card
from retrolit.retrieval.prepare import RetrievalConfig
from retrolit.tokens.config import TokensConfig
from retrolit.training.retro_module import with_decoder

_USAGE = """\
usage: retrolit plan -c RECIPE.yaml [-c OVERLAY.yaml ...] [--cluster.gpus 512] [--cluster.gpu A100] [--cluster.mfu 0.45]
       retrolit plan -c DATA.yaml --database.tokens 1.2e12 [--database.documents 1e9] [--rates.workers 64]

Of a training recipe: parameters, FLOPs, days and GPU hours, and the memory of one GPU by strategy, with and without
activation checkpointing. Settings of the recipe are changed as for `retrolit fit`; the cluster may be a section of an
overlay. Of a data.yaml: bytes of database, embeddings, index and neighbors, and the hours they take
(`retrolit plan -c DATA.yaml --help`). Nothing is read but the files, nothing is built.
"""

PRECISIONS = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed"}
"""Other names that Lightning knows for the precisions we plan for."""


def main(argv: list[str]) -> int:
    """Plan what the files of this command line describe; the exit code comes back."""
    files = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word in ("-c", "--config")]
    if not argv or (not files and argv[0] in ("-h", "--help")):
        print(_USAGE)
        parser = Parser(prog="retrolit plan", usage=argparse.SUPPRESS, add_help=False)
        parser.add_class_arguments(Cluster, "cluster", help="the GPUs")
        parser.print_help()
        return 0
    if not files:
        raise ValueError("expected -c RECIPE.yaml, got none")
    if any(_is_data_recipe(file) for file in files):
        return run(sys.modules[__name__], "plan", argv)
    try:
        settings, cluster = read_recipe(argv)
    except CommandLineMistake as error:
        print(f"retrolit plan: {error}\n`retrolit plan --help` shows the settings", file=sys.stderr)
        return 2
    print(show_training(settings, cluster, plan_training(settings, cluster)))
    return 0


def plan(
    folder: str,
    tokens: TokensConfig,
    database: Database,
    retrieval: RetrievalConfig | None = None,
    rates: Rates = Rates(),  # noqa: B008 (a default that is never changed, and shown by --help)
    card: str | None = None,
) -> None:
    """What a data.yaml's database is going to need, before it is prepared.

    Args:
        folder: where the artifacts would go.
        tokens: corpora, tokenizer and splits.
        database: how much text there is.
        retrieval: chunk database, index and neighbor tables.
        rates: how fast the work goes.
        card: the folder of an index like it, whose card has measured queries a second; a worker is that machine.
    """
    if retrieval is None:
        raise ValueError("retrieval: expected a data.yaml with a `retrieval:` part, got one without")
    if card is not None:
        measured = Card.read(card).queries_per_second
        if measured is None:
            raise ValueError(f"card: expected one that has measured queries, {card} has not (card_queries: 0)")
        rates = replace(rates, query=measured)
    print(show_database(plan_database(retrieval, database, rates), rates))


class _RecipeReader(TrainerCLI):
    """Reads recipes and options as `retrolit fit` does, and a cluster with them; builds nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(Cluster, "cluster")

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


def read_recipe(argv: list[str]) -> tuple[Run, Cluster]:
    """The run that recipes and options describe, and the cluster.

    Raises CommandLineMistake for a setting that does not exist, ValueError where sizes do not fit or the precision is
    none that can be planned.
    """
    settings = _RecipeReader(["fit", *argv]).config.fit
    model, data, trainer = settings.model, settings.data.init_args, settings.trainer
    micro_batch = data.micro_batch_size or data.global_batch_size
    precision = PRECISIONS.get(str(trainer.precision), str(trainer.precision))
    config = _model_config(model.init_args)
    run = Run(
        config,
        MicroBatch(micro_batch, data.sequence_length, precision, compiled=bool(model.init_args.get("compile"))),
        data.global_batch_size,
        trainer.max_steps,
        _trained(model.class_path, model.init_args, config),
    )
    return run, Cluster(**settings.cluster.as_dict())


def _model_config(settings: Namespace) -> GPTConfig | RetroConfig:
    values = settings.config.as_dict()
    if "decoder" not in values:
        return GPTConfig.from_dict(values)
    return with_decoder(RetroConfig.from_dict(values), settings.get("retrofit_from"))


def _trained(class_path: str, settings: Any, config: GPTConfig | RetroConfig) -> Trained:
    if not isinstance(config, RetroConfig):
        return "all"
    if class_path.endswith("InstructRetroModule") and settings.gate == 0:
        return "decoder"
    return "new" if settings.get("train") == "new" else "all"


def _is_data_recipe(file: str) -> bool:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file}: there is no such recipe")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and "tokens" in content
