"""PretrainingData: token streams under Lightning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from retrolit.data.document_windows import DocumentWindows
from retrolit.data.neighbors import SampleNeighbors
from retrolit.data.practice import Practice, PracticeConfig
from retrolit.data.preparation import DataConfig, Prepared, prepare
from retrolit.data.pretraining import EvaluationSamples, PretrainingSamples, TrainingWindows
from retrolit.retrieval import PreparedRetrieval, PreparedRetriever
from retrolit.storage import fingerprint
from retrolit.tokens import Blend, TokenStore, load_tokenizer
from retrolit.tokens.progress import visible
from retrolit.training.training_data import TrainingData


@dataclass
class Corpus:
    """One corpus of one split."""

    name: str
    store: TokenStore
    num_bytes: int
    """Bytes of UTF-8 of its text."""
    weight: float | None
    """Its share in the training blend, relative to the others'; by its number of tokens when not given."""


class PretrainingData(TrainingData):
    """Samples of T + 1 stream tokens; prepares the data first where they are missing.

    Args:
        data: A data.yaml, or its fields: which text, which tokenizer, where the prepared data lie.
        sequence_length: Tokens of a sample (T).
        global_batch_size: Samples of one optimizer step, over all devices.
        micro_batch_size: Samples a device takes at once; what is missing to the global batch is accumulated.
            As much as possible when not given.
        chunk_length: Samples start at a multiple of it (M); it divides sequence_length.
        num_neighbors: Neighbors that are read for every chunk (K), for a Retro; with 0 nothing of what the data's
            `retrieval` describes is made or opened.
        num_retrieved_chunks: Chunks of a neighbor that are read: the one found and its continuation.
        practice: At the beginning of training some chunks read passages of their own text, from which a small Retro
            learns to read at all; none do when not given.
        seed: Decides the order of the samples, and with the step all other randomness of training.
        num_workers: Processes that read ahead; 0 reads in the training process, which is quick.
    """

    splits_setting = "tokens.splits"

    def __init__(
        self,
        data: DataConfig,
        *,
        sequence_length: int,
        global_batch_size: int,
        micro_batch_size: int | None = None,
        chunk_length: int = 64,
        num_neighbors: int = 0,
        num_retrieved_chunks: int = 2,
        practice: PracticeConfig | None = None,
        seed: int = 1234,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            chunk_length=chunk_length,
            num_neighbors=num_neighbors,
            num_retrieved_chunks=num_retrieved_chunks,
            seed=seed,
            num_workers=num_workers,
        )
        if num_neighbors and data.retrieval is None:
            raise ValueError(
                f"data.num_neighbors: to read {num_neighbors} neighbors, a data.yaml with a `retrieval:` part is "
                "expected, got one without"
            )
        if num_neighbors and data.retrieval is not None and data.retrieval.chunk_length != chunk_length:
            raise ValueError(
                f"data.chunk_length: the data's neighbors are those of chunks of {data.retrieval.chunk_length} tokens, "
                f"got {chunk_length}; change retrieval.chunk_length in the data.yaml with it"
            )
        if practice is not None and not num_neighbors:
            raise ValueError("data.practice: expected num_neighbors of at least 1 to practice reading with, got 0")
        self.practice = practice
        self.config = data if num_neighbors else data.without_retrieval()
        self.corpora: dict[str, list[Corpus]] = {}
        """Of each split."""
        self.retrievers: dict[str, list[PreparedRetriever]] = {}
        """Of each split, that of each corpus; empty where no neighbors are read."""
        self.database_only: dict[str, TokenStore] = {}
        """Name of each corpus that is in the database and in no split -> its documents."""
        self.neighbors_fingerprint = ""
        """Of the training neighbors; empty where none are read."""
        self._prepared: Prepared | None = None
        """By this process, and not opened yet."""
        self.evaluation_stride: int | None = None
        """Tokens from one evaluation window to the next of its document; None for windows of the whole stream."""

    # ---- preparation

    def prepare_data(self) -> None:
        """Tokens and, for a Retro, index and neighbors, where they are missing; on one process of each machine."""
        self._prepared = prepare(self.config, visible)

    def open(self) -> None:
        """Open what is prepared. Raises ValueError where a corpus is too short."""
        prepared, self._prepared = self._prepared or prepare(self.config), None  # looked at again before another use
        tokens = prepared.tokens
        self.fingerprint = tokens.fingerprint
        self.tokenizer = load_tokenizer(tokens.tokenizer_folder)
        self.corpora = {
            split: [
                Corpus(
                    name=name,
                    store=TokenStore(prefix),
                    num_bytes=tokens.manifests[name].sizes[split]["bytes"],
                    weight=tokens.weights[name],
                )
                for name, prefix in stores.items()
            ]
            for split, stores in tokens.stores.items()
        }
        self.database_only = {name: TokenStore(prefix) for name, prefix in tokens.database.items()}
        if prepared.retrieval is not None:
            self.retrievers = self._open_retrievers(prepared.retrieval)
            tables = [retriever.table.manifest.fingerprint for retriever in self.retrievers["train"]]
            self.neighbors_fingerprint = fingerprint(tables)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all devices."""
        return self.global_batch_size * self.sequence_length

    def bytes_per_token(self, split: str) -> float:
        """Bytes of text that a token stands for on average, in the corpora of this split as they are drawn."""
        corpora = [corpus for corpus in self.corpora[split] if corpus.store.num_tokens]
        weights = self._weights(corpora) if split == "train" else [corpus.store.num_tokens for corpus in corpora]
        rates = [corpus.num_bytes / corpus.store.num_tokens for corpus in corpora]
        return sum(weight * rate for weight, rate in zip(weights, rates, strict=True)) / sum(weights)

    # ---- samples

    def training_samples(self) -> PretrainingSamples:
        """The endless training samples, by global number."""
        corpora = self.corpora["train"]
        windows = [
            TrainingWindows(
                corpus.store,
                self.sequence_length,
                self.chunk_length,
                self.seed,
                name=f"corpus {corpus.name}, split train",
            )
            for corpus in corpora
        ]
        practice = None
        if self.practice is not None:
            practice = Practice(self.practice.share, self.practice.steps * self.global_batch_size, self.seed)
        blend = Blend(self._weights(corpora), seed=self.seed)
        return PretrainingSamples(windows, blend, self._neighbors("train"), practice)

    def evaluation_samples(self, split: str) -> EvaluationSamples | DocumentWindows:
        """All windows of the validation or test split, in order."""
        stores = [corpus.store for corpus in self.corpora[split]]
        if self.evaluation_stride is not None:
            return DocumentWindows(stores, self.sequence_length, self.evaluation_stride, self._neighbors(split))
        return EvaluationSamples(stores, self.sequence_length, self._neighbors(split))

    def random_neighbors(self, split: str) -> Callable[[int], tuple[Tensor, Tensor]]:
        """From the number of a batch of `evaluation_numbers` to neighbors of random chunks, tokens and mask
        (B, L, K, R), in place of those retrieved; the same ones at every call."""
        neighbors = self._neighbors(split, random_seed=self.seed)
        assert neighbors is not None
        samples, numbers = self.evaluation_samples(split), self.evaluation_numbers(split)
        return lambda batch: neighbors([samples.locate(n) for n in numbers[batch]], self.sequence_length)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return super().state_dict() | (
            {
                "num_neighbors": self.num_neighbors,
                "num_retrieved_chunks": self.num_retrieved_chunks,
                "prepared neighbors": self.neighbors_fingerprint,
                "practice": None if self.practice is None else asdict(self.practice),
            }
            if self.num_neighbors
            else {}
        )

    def accounting(self) -> list[str]:
        """One line a corpus: what an epoch makes of its tokens."""
        lines = []
        for corpus, windows in zip(self.corpora["train"], self.training_samples().windows, strict=True):
            counts = windows.accounting()
            lines.append(
                f"{corpus.name}: {counts.stream:,} tokens; an epoch trains {counts.trained:,} and drops "
                f"{counts.dropped:,} of them, in {windows.windows_per_epoch:,} samples"
            )
        return lines

    def _open_retrievers(self, retrieval: PreparedRetrieval) -> dict[str, list[PreparedRetriever]]:
        database = retrieval.database()
        return {
            split: [
                PreparedRetriever(
                    retrieval.tables[split][corpus.name], corpus.store, database, self.num_retrieved_chunks
                )
                for corpus in corpora
            ]
            for split, corpora in self.corpora.items()
        }

    def _neighbors(self, split: str, random_seed: int | None = None) -> SampleNeighbors | None:
        """Those of the samples of a split; None where none are read."""
        if not self.num_neighbors:
            return None
        return SampleNeighbors(self.retrievers[split], self.num_neighbors, random_seed)

    def _weights(self, corpora: list[Corpus]) -> list[float]:
        # Either all corpora have a weight or none has: TokensConfig sees to it.
        return [corpus.weight if corpus.weight is not None else corpus.store.num_tokens for corpus in corpora]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that read as many samples as there are."""
        samples = sum(windows.windows_per_epoch for windows in self.training_samples().windows)
        return max(1, samples // self.global_batch_size)


def streams(data: TrainingData) -> PretrainingData:
    """The data as token streams. Raises ValueError where they are conversations."""
    if not isinstance(data, PretrainingData):
        raise ValueError(
            f"data: expected PretrainingData, got {type(data).__name__}; conversations are read by InstructRetroModule"
        )
    return data
