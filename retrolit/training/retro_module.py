"""RetroModule: a Retro under Lightning, from scratch or fitted to a GPT."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from retrolit.checkpoint.model_folder import open_model
from retrolit.checkpoint.model_types import DECODER, Config, empty_model
from retrolit.data.batch import Batch
from retrolit.evaluation.loss_totals import LossTotals
from retrolit.evaluation.retrieval_gain import RetrievalTotals
from retrolit.models import GPT, GPTConfig, Loss, Retro, RetroConfig
from retrolit.training.first_weights import Stored, fill, open_stored
from retrolit.training.module import WITHOUT_WEIGHTS, LanguageModule
from retrolit.training.pretraining_data import streams
from retrolit.training.training_data import TrainingData


class RetroModule(LanguageModule):
    """Trains a Retro, and says at every validation what its neighbors are worth.

    Args:
        config: What the Retro is made of; its decoder may be left out beside retrofit_from, and is then the GPT's.
        retrofit_from: A GPT's model folder or checkpoint to fit the Retro to: the decoder begins with its weights.
            Every validation names its loss too, where each device holds the whole model.
        train: Which weights are trained: all (InstructRetro), or the new ones, encoder and cross-attention, beside a
            decoder that stays as it is and without dropout (RETRO).
    """

    model_type = "retro"

    def __init__(
        self,
        config: RetroConfig,
        *,
        retrofit_from: str | None = None,
        train: Literal["all", "new"] = "all",
        **settings: Any,
    ) -> None:
        config = with_decoder(config, retrofit_from)
        super().__init__(config, **settings)
        if train not in ("all", "new"):
            raise ValueError(f"model.train: expected all or new, got {train!r}")
        self.config: RetroConfig = config
        self.retrofit_from = retrofit_from
        self.trained = train
        self.retrieval_totals = RetrievalTotals()
        self.source: _Source | None = None
        """The GPT fitted from, while its loss on a split is measured."""
        self.gpt_bits_per_byte: dict[str, float] = {}
        """Of the GPT on each split; it never changes, so it is measured once."""

    @property
    def retro(self) -> Retro:
        """The built model."""
        assert isinstance(self.model, Retro)
        return self.model

    @property
    def decoder(self) -> GPT:
        """The GPT that the Retro gives neighbors to."""
        return self.retro.decoder

    def setup(self, stage: str) -> None:
        """Raises ValueError where model, data and trainer do not fit together."""
        super().setup(stage)
        check_neighbors(self.config, streams(self.data), stage)

    def build(self) -> Retro:
        """A Retro; with `train` new its decoder is frozen."""
        retro = Retro(self.config)
        if self.trained == "new":
            for name, parameter in retro.decoder.named_parameters():
                parameter.requires_grad = "cross_attention" in name
        return retro

    def given_weights(self) -> dict[str, Stored]:
        """Those of the GPT to fit the Retro to, unless the run begins with a Retro's."""
        if self.retrofit_from is None or self.init_from is not None:
            return super().given_weights()
        config, stored = self._open_gpt(self.retrofit_from)
        ours, theirs = asdict(self.config.decoder), asdict(config)
        told = "; ".join(
            f"{name} {ours[name]}, of the GPT {theirs[name]}"
            for name in ours
            if ours[name] != theirs[name] and name not in WITHOUT_WEIGHTS
        )
        if told:
            raise ValueError(
                f"model.config.decoder: expected the config of the GPT in {self.retrofit_from}, got {told}"
            )
        return {DECODER + name: tensor for name, tensor in stored.items()}

    def configure_model(self) -> None:
        """Build the model, and have the parts that are not trained compute as in evaluation from the first step."""
        super().configure_model()
        self.train(self.training)

    def train(self, mode: bool = True) -> RetroModule:
        """As torch's; a frozen decoder computes as in evaluation, but for the cross-attention it was given."""
        super().train(mode)
        if self.trained == "new" and self.model is not None:
            for name, part in self.decoder.named_modules():
                # The decoder itself stays in training: it is what recomputes activations.
                part.training = mode and (not name or "cross_attention" in name)
        return self

    def loss(self, batch: Batch) -> Loss:
        """Next-token loss with the batch's neighbors."""
        neighbors = (batch.neighbor_tokens, batch.neighbor_mask)
        return self.retro.loss(batch.tokens, batch.labels, batch.loss_mask, *neighbors)

    def start_evaluation(self, split: str) -> None:
        """Begin with all kinds of neighbors, and with the GPT where its loss on this split is not known yet."""
        self.retrieval_totals = RetrievalTotals()
        self.random_neighbors = streams(self.data).random_neighbors(split)
        self.source = self._source() if split not in self.gpt_bits_per_byte else None

    def evaluate(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch, read with every kind of neighbors; its token losses (B, T) come back, by kind."""
        tokens, mask = self.random_neighbors(batch_idx)
        losses = self.retrieval_totals.read(self.loss, batch, tokens.to(self.device), mask.to(self.device))
        return losses if self.source is None else losses | {"gpt": self.source.add(batch)}

    def results(self, split: str) -> dict[str, float]:
        """Those of `RetrievalTotals.result`, and where the GPT was measured bits_per_byte_gpt."""
        bytes_per_token = self.data.bytes_per_token(split)
        results = self.retrieval_totals.result(self.sum_over_devices, bytes_per_token, self.say)
        if self.source is not None:
            result = self.source.totals.result(self.sum_over_devices, bytes_per_token)
            self.gpt_bits_per_byte[split] = result["bits_per_byte"]
            self.source = None
        if split in self.gpt_bits_per_byte:
            results["bits_per_byte_gpt"] = self.gpt_bits_per_byte[split]
        return results

    def settings(self) -> dict[str, Any]:
        """What a resumed run must not change."""
        return super().settings() | {"train": self.trained}

    def _source(self) -> _Source | None:
        """The GPT fitted from, where there is one and this device can hold it beside the Retro."""
        whole = isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        if self.retrofit_from is None or not whole or self.trainer.sanity_checking:
            return None
        if not Path(self.retrofit_from).exists() and (self.init_from is not None or not self.starts_fresh):
            self.say(f"{self.retrofit_from} is gone: bits_per_byte_gpt is left out")
            return None
        config, stored = self._open_gpt(self.retrofit_from)
        gpt = empty_model(config).to(self.decoder.embedding.weight.dtype).to_empty(device=self.device)
        assert isinstance(gpt, GPT)
        fill(gpt, empty_model(config), stored, seed=0)
        return _Source(gpt.eval())

    def _open_gpt(self, source: str) -> tuple[GPTConfig, dict[str, Stored]]:
        """Config and tensors of the GPT in this folder or file."""
        config, stored = open_stored(Path(source), self.config.decoder.vocab_size)
        return _of_gpt(config, source), stored


def with_decoder(config: RetroConfig, source: str | None) -> RetroConfig:
    """The config, its decoder that of the GPT in this model folder or checkpoint where it has none of its own.

    Raises ValueError where there is neither, FileNotFoundError where the GPT is not there.
    """
    if config.decoder is not None:
        return config
    if source is None:
        raise ValueError(
            "model.config.decoder: expected the config of a GPT, got none; it may be left out only beside "
            "model.retrofit_from, which names a GPT that has one"
        )
    if not Path(source).exists():
        raise FileNotFoundError(
            f"model.retrofit_from: expected a GPT whose config model.config.decoder is, {source} is not there; "
            "train or import it first, or write the decoder's config down"
        )
    return replace(config, decoder=_of_gpt(open_model(Path(source))[0], source))


def _of_gpt(config: Config, source: str) -> GPTConfig:
    if isinstance(config, RetroConfig):
        raise ValueError(
            f"model.retrofit_from: expected a GPT's model folder, {source} holds a Retro; "
            "to go on from its weights, name it in model.init_from"
        )
    return config


def check_neighbors(config: RetroConfig, data: TrainingData, stage: str) -> None:
    """Raises ValueError where the data's neighbors are not those that the Retro reads."""
    if not data.num_neighbors:
        raise ValueError(
            f"data.num_neighbors: expected model.config.num_neighbors ({config.num_neighbors}), got 0; "
            "a Retro is trained with neighbors"
        )
    fixed = ["chunk_length", "num_retrieved_chunks"] + (["num_neighbors"] if stage == "fit" else [])
    for name in fixed:
        ours, theirs = getattr(config, name), getattr(data, name)
        if ours != theirs:
            raise ValueError(f"data.{name}: expected model.config.{name} ({ours}), got {theirs}")


class _Source:
    """A GPT and its loss on a split; no torch module, so that its weights do not become those of the run."""

    def __init__(self, gpt: GPT) -> None:
        self.gpt = gpt
        self.totals = LossTotals()

    def add(self, batch: Batch) -> Tensor:
        """Add one batch; its token losses (B, T) come back."""
        losses = self.gpt.loss(batch.tokens, batch.labels).tokens
        self.totals.add(losses, batch.loss_mask)
        return losses
