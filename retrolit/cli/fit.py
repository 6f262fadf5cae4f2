"""fit, validate, test, predict: LightningCLI with a run folder that it goes on in by itself."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table

from retrolit.checkpoint.model_folder import is_checkpoint
from retrolit.cli.show_results import show_results
from retrolit.cli.trainer_parser import CommandLineMistake, TrainerParser
from retrolit.storage import atomic_write, write_json
from retrolit.training import (
    AtomicCheckpointIO,
    Checkpoints,
    Evaluation,
    LanguageModule,
    MetricsFile,
    RetroModule,
    TextSamples,
    TokenLosses,
    TrainingData,
    TrainingMetrics,
    finished_steps,
    newest_checkpoint,
    progress,
)
from retrolit.training.checkpoints import FOLDER
from retrolit.training.finished_model import save_trained_model
from retrolit.training.predictions import FOLDER as TOKEN_LOSSES
from retrolit.training.progress import Opening
from retrolit.training.surroundings import FILE_NAME as RUN_FILE
from retrolit.training.surroundings import surroundings

_USAGE = "-c recipe.yaml [-c overlay.yaml ...] [--model.x VALUE] [--data.x VALUE] [--trainer.x VALUE]"
CONFIG_FILE = "config.yaml"
MODEL_FOLDER = "model"
SIGTERM_EXIT_CODE = 143


def main(argv: list[str]) -> int:
    """Run one of the four verbs; `argv` begins with it. The exit code comes back."""
    _quiet_lightning()
    try:
        TrainerCLI(argv)
    except CommandLineMistake as error:
        print(f"retrolit {argv[0]}: {error}\n`retrolit {argv[0]} --help` shows the settings", file=sys.stderr)
        return 2
    except SIGTERMException:
        print("stopped by SIGTERM; the same command goes on from here", file=sys.stderr)
        return SIGTERM_EXIT_CODE
    except FloatingPointError as error:
        print(f"retrolit {argv[0]}: {error}", file=sys.stderr)
        return 1
    return 0


class TrainerCLI(LightningCLI):
    """Adds to LightningCLI: a run folder to go on in, our callbacks and logger, and results people can read."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(
            LanguageModule,
            TrainingData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # written by ours, once the checkpoint has agreed to the settings
            seed_everything_default=1234,
            trainer_defaults={
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                "callbacks": [TokenLosses(), Opening(), progress()],
            },
            auto_configure_optimizers=False,
            parser_class=TrainerParser,
            parser_kwargs={verb: {"usage": f"retrolit {verb} {_USAGE}"} for verb in self.subcommands()},
            args=argv,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our callbacks have their own places in a recipe."""
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(TrainingMetrics, "metrics")
        parser.add_lightning_class_args(TextSamples, "samples")
        parser.add_lightning_class_args(Evaluation, "evaluation")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning's, without its warning that the command line came as a list."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: recipes and command line have the last word."""

    def instantiate_classes(self) -> None:
        """As Lightning's; what a class of ours says about its arguments comes out alone, not in a page of types."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause = error
            while isinstance(cause.__cause__, ValueError):
                cause = cause.__cause__
            raise cause from None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with our logger first and checkpoints that are always whole."""
        config = self._get(self.config_init, "trainer")
        if config.default_root_dir is None:
            raise ValueError(
                "trainer.default_root_dir: expected the run's folder, for example --trainer.default_root_dir runs/mine"
            )
        callbacks = _as_list(config.callbacks)
        if self.subcommand == "fit" and not config.fast_dev_run:
            callbacks.append(RunFolder(Path(config.default_root_dir), self._config_text()))
        return super().instantiate_trainer(
            logger=[MetricsFile(config.default_root_dir), *_as_list(config.logger)],
            plugins=[AtomicCheckpointIO(), *_as_list(config.plugins)],
            callbacks=callbacks,
        )

    @property
    def run_folder(self) -> Path:
        """Everything of a run lies here."""
        return Path(self.trainer.default_root_dir)

    def fit(self, model: LanguageModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Start, go on from the newest checkpoint, or find that there is nothing left to do."""
        checkpoint = ckpt_path
        if checkpoint is None and not self.config.fit.trainer.fast_dev_run:
            checkpoint = newest_checkpoint(self.run_folder)
        if checkpoint is not None:
            model.starts_fresh = False
            done, last = finished_steps(Path(checkpoint)), self.trainer.max_steps
            if done < last:
                self._say(f"going on from {checkpoint} (step {done} of {last})")
        # A finished run goes through here too: its settings are compared, and no step is left to do.
        self.trainer.fit(model, ckpt_path=checkpoint, **kwargs)

    def validate(self, model: LanguageModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """One pass over the validation split, printed as a table."""
        self._evaluate(self.trainer.validate, model, ckpt_path, kwargs | {"verbose": False})

    def test(self, model: LanguageModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """One pass over the test split, printed as a table."""
        self._evaluate(self.trainer.test, model, ckpt_path, kwargs | {"verbose": False})

    def predict(self, model: LanguageModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """The loss of every token of the test split, written to the run's folder."""
        self._evaluate(self.trainer.predict, model, ckpt_path, kwargs | {"return_predictions": False})
        self._say(f"wrote {self.run_folder / TOKEN_LOSSES}")

    def _evaluate(
        self, verb: Callable[..., Any], model: LanguageModule, ckpt_path: str | None, kwargs: dict[str, Any]
    ) -> None:
        weights = Path(ckpt_path) if ckpt_path else self._weights_of_the_run()
        if weights.is_dir() and not is_checkpoint(weights):
            model.init_from, checkpoint = str(weights), None
        else:
            model.starts_fresh, checkpoint = False, weights
        self._say(f"weights from {weights}")
        verb(model, ckpt_path=checkpoint, **kwargs)
        evaluation = self._get(self.config_init, "evaluation")
        if evaluation.results:
            show_results(Console(), evaluation.split, evaluation.results)
            self._say(f"wrote {evaluation.path}")
        elif self.trainer.callback_metrics and self.trainer.is_global_zero:
            table = Table("metric", "value")
            for name, value in self.trainer.callback_metrics.items():
                table.add_row(name, f"{float(value):.4f}")
            Console().print(table)

    def _weights_of_the_run(self) -> Path:
        newest, folder = newest_checkpoint(self.run_folder), self.run_folder / MODEL_FOLDER
        if newest is not None:
            return newest
        if folder.is_dir():
            return folder
        raise FileNotFoundError(
            f"{self.run_folder}: expected a trained model, found neither {FOLDER}/ nor {MODEL_FOLDER}/; "
            "run `retrolit fit` first or name one with --ckpt_path"
        )

    def _config_text(self) -> str:
        """The resolved settings of this run, ready to be given back with -c."""
        config = self.config.fit.clone()
        config.ckpt_path = None
        config.pop("config", None)
        if isinstance(self.model, RetroModule):  # where a recipe leaves the decoder to the GPT that it is fitted from
            config.model.init_args.config.decoder = Namespace(asdict(self.model.config.decoder))
        return self._parser("fit").dump(config, skip_none=False)

    def _say(self, line: str) -> None:
        if self.trainer.is_global_zero:
            print(line, flush=True)


class RunFolder(L.Callback):
    """Writes the run's settings when training begins and its model when it is finished."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = config
        self.trained = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write config.yaml and run.json: a changed setting has been refused by now."""
        assert isinstance(pl_module, LanguageModule)
        self.trained = True
        if trainer.is_global_zero:
            with atomic_write(self.folder / CONFIG_FILE) as file:
                file.write(self.config.encode())
            write_json(self.folder / RUN_FILE, surroundings(trainer, pl_module))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the model folder, unless this run was finished before."""
        assert isinstance(pl_module, LanguageModule)
        model_folder = self.folder / MODEL_FOLDER
        wanted = trainer.strategy.broadcast(self.trained or not model_folder.is_dir())
        if wanted:
            save_trained_model(trainer, pl_module, model_folder)
        if trainer.is_global_zero:
            finished = f"{self.folder}: finished, {trainer.global_step} steps; the model is in {model_folder}"
            print(f"wrote {model_folder}" if wanted else finished)


def _as_list(value: Any) -> list[Any]:
    """A trainer setting that is one object or several; True and None stand for Lightning's default."""
    return value if isinstance(value, list) else [value] if value not in (None, True, False) else []


def _quiet_lightning() -> None:
    """Take away the lines that Lightning prints for itself: advertisements, devices that are not there, habits."""
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # a frozen decoder means to be
    # The part of a shared vocabulary that a device has looked up is a view; nothing is added to it in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(FSDPEmbedding\) returned a view")
    noise = re.compile(
        r"Tip:|[GT]PU available|Seed set to|weights_only|max_steps=|[Rr]estor(ing|ed)|Loaded model weights"
        r"|Initializing distributed|distributed_backend"
    )
    for name in [name for name in logging.Logger.manager.loggerDict if name.startswith("lightning.")]:
        logging.getLogger(name).addFilter(lambda record: not noise.search(record.getMessage()))
