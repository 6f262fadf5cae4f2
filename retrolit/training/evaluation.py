"""What `retrolit test` and `retrolit validate` find out, beside the row in metrics.jsonl."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from retrolit.data.batch import Batch
from retrolit.data.preparation import prepare
from retrolit.evaluation.leakage import Copy, find_copies, refuse_copies
from retrolit.evaluation.neighbor_examples import neighbor_examples
from retrolit.evaluation.overlap import chunk_overlap, label_runs
from retrolit.evaluation.results_file import weights_fingerprint, write_results
from retrolit.evaluation.text_sizes import text_sizes
from retrolit.evaluation.token_losses import TokenLosses
from retrolit.retrieval.document_chunks import document_retriever
from retrolit.storage import fingerprint
from retrolit.tokens.progress import visible
from retrolit.training.module import LanguageModule
from retrolit.training.pretraining_data import PretrainingData, streams

NAMED_COPIES = 20
"""Documents on both sides that a result names; all are counted."""


class Evaluation(L.Callback):
    """`test` and `validate` write results.json into the run's folder: measures, controls, what stands in the neighbors.

    Nothing is done while training, nor for data that are no token streams (conversations).

    Args:
        stride: Windows inside documents in place of the stream's, each so many tokens after the one before it; only its
            new tokens count. A multiple of data.chunk_length, at most data.sequence_length.
        allow_leakage: Go on where documents of the split are training or database documents; the results say so.
        num_resamples: Splits of documents that are drawn for a confidence interval; 0 for none.
    """

    def __init__(self, stride: int | None = None, allow_leakage: bool = False, num_resamples: int = 1000) -> None:
        if num_resamples < 0:
            raise ValueError(f"evaluation.num_resamples: expected at least 0, got {num_resamples}")
        self.stride = stride
        self.allow_leakage = allow_leakage
        self.num_resamples = num_resamples
        self.results: dict[str, Any] = {}
        """Of the split just evaluated, on the first process: what results.json holds of it."""
        self.path = Path()
        """The file they were written to."""
        self._copies: list[Copy] = []
        self._wanted = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raises ValueError where documents of the split are training or database ones, unless that is allowed."""
        assert isinstance(pl_module, LanguageModule)
        split = {"test": "test", "validate": "validation"}.get(stage)
        self._wanted = split is not None and isinstance(pl_module.data, PretrainingData)
        if not self._wanted or split is None:
            return
        assert isinstance(pl_module.data, PretrainingData)
        data = pl_module.data
        evaluated, trained = ({c.name: c.store for c in data.corpora[name]} for name in (split, "train"))
        self._copies = find_copies(evaluated, trained | data.database_only)
        if not self.allow_leakage:
            refuse_copies(self._copies, split)
        if self.stride is not None:
            _stay_inside_documents(pl_module.data, split, self.stride)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make room for the losses of all tokens."""
        if self._wanted:
            self._start(pl_module, "test")

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's losses."""
        if self._wanted:
            self._keep(outputs, batch, batch_idx)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the results."""
        if self._wanted:
            self._finish(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As on_test_start; nothing in a run that trains."""
        if self._wanted:
            self._start(pl_module, "validation")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As on_test_batch_end."""
        if self._wanted:
            self._keep(outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As on_test_end."""
        if self._wanted:
            self._finish(trainer, pl_module)

    def _start(self, module: L.LightningModule, split: str) -> None:
        assert isinstance(module, LanguageModule)
        assert isinstance(module.data, PretrainingData)
        self.split, self.data = split, streams(module.data)
        self.samples, self.numbers = self.data.evaluation_samples(split), self.data.evaluation_numbers(split)
        stores = [corpus.store for corpus in self.data.corpora[split]]
        self.first_token = np.cumsum([0, *(store.num_tokens for store in stores)])
        """Of each corpus, where all stand one after another."""
        self.nats: dict[str, Tensor] = {}
        self.seen = torch.zeros(int(self.first_token[-1]))
        self.runs = torch.zeros(len(self.seen), dtype=torch.int32) if self.data.num_neighbors else None

    def _keep(self, losses: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:
        """Put each label's losses, and its run, where its token stands."""
        mask = batch.loss_mask.bool()
        begins = [self.samples.locate(number) for number in self.numbers[batch_idx]]
        first = torch.tensor([int(self.first_token[stream]) + start + 1 for stream, start in begins])
        place = (first[:, None] + torch.arange(mask.shape[1]))[mask.cpu()]
        self.seen[place] = 1
        for name, values in losses.items():
            if name not in self.nats:
                self.nats[name] = torch.zeros(len(self.seen))
            self.nats[name][place] = values[mask].float().cpu()
        if self.runs is not None:
            self.runs[place] = label_runs(batch, self.data.chunk_length)[mask].int().cpu()

    def _finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, LanguageModule)
        seen = module.sum_over_devices(self.seen).cpu().numpy()
        nats = {name: module.sum_over_devices(values).cpu().numpy() for name, values in self.nats.items()}
        runs = None if self.runs is None else module.sum_over_devices(self.runs).cpu().numpy().astype(np.int16)
        if not trainer.is_global_zero:
            return
        for values in nats.values():
            values[seen == 0] = np.nan
        corpora = self.data.corpora[self.split]
        sizes = [text_sizes(corpus.store, self.data.tokenizer) for corpus in corpora]
        lengths = np.concatenate([np.diff(corpus.store.document_starts) for corpus in corpora])
        losses = TokenLosses(
            nats,
            num_bytes=np.concatenate([num_bytes for num_bytes, _ in sizes]),
            document=np.repeat(np.arange(len(lengths)), lengths),
            num_words=np.concatenate([num_words for _, num_words in sizes]),
            overlap=self._overlap(),
            run=runs,
        )
        leakage = {"documents": len(self._copies), "named": [str(copy) for copy in self._copies[:NAMED_COPIES]]}
        weights = trainer.ckpt_path or module.init_from  # neither: those that the trainer has just trained
        self.results = {
            "weights": {"path": str(weights), "fingerprint": weights_fingerprint(weights)} if weights else None,
            "model": {"type": module.model_type, "config": asdict(module.config)},
            "data": describe(self.data, self.split),
            "leakage": leakage,
            "num_resamples": self.num_resamples,
            **losses.results(self.num_resamples, self.data.seed),
        }
        if self.data.num_neighbors:
            saved, retrievers = nats["none"] - nats["retrieved"], self.data.retrievers[self.split]
            examples = neighbor_examples(saved, retrievers, self.data.tokenizer, self.data.num_neighbors)
            self.results["neighbor_examples"] = examples
        self.path = write_results(trainer.default_root_dir, self.split, self.results)

    def _overlap(self) -> np.ndarray | None:
        """That of each token's chunk (N,); None where nothing is retrieved."""
        if not self.data.num_neighbors:
            return None
        parts = [
            chunk_overlap(retriever)[retriever.chunk_of(np.arange(retriever.store.num_tokens))]
            for retriever in self.data.retrievers[self.split]
        ]
        return np.concatenate(parts)


def _stay_inside_documents(data: PretrainingData, split: str, stride: int) -> None:
    """Have the split read in windows inside documents, with the neighbors of their chunks."""
    if not 1 <= stride <= data.sequence_length or stride % data.chunk_length:
        raise ValueError(
            f"evaluation.stride: expected a multiple of data.chunk_length ({data.chunk_length}) up to "
            f"data.sequence_length ({data.sequence_length}), got {stride}"
        )
    data.evaluation_stride = stride
    if data.num_neighbors:
        config, retrieval = data.config.retrieval, prepare(data.config).retrieval
        assert config is not None
        assert retrieval is not None
        data.retrievers[split] = [
            document_retriever(retriever, retrieval.index_folder, config.neighbors, visible)
            for retriever in data.retrievers[split]
        ]


def describe(data: PretrainingData, split: str) -> dict[str, Any]:
    """What a split's numbers are about: fingerprints of all that was read, and how it was read."""
    described: dict[str, Any] = {
        "folder": data.config.folder,
        "tokens": data.fingerprint,
        "tokenizer": data.tokenizer.fingerprint,
        "corpora": {corpus.name: corpus.store.fingerprint for corpus in data.corpora[split]},
        "sequence_length": data.sequence_length,
        "stride": data.evaluation_stride,
        "num_neighbors": data.num_neighbors,
    }
    if data.num_neighbors:
        retrievers = data.retrievers[split]
        described |= {
            "database": retrievers[0].database.fingerprint,
            "neighbors": fingerprint([retriever.table.manifest.fingerprint for retriever in retrievers]),
            "chunk_length": data.chunk_length,
            "num_retrieved_chunks": data.num_retrieved_chunks,
        }
    return described
