"""InstructionData: conversations under Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrolit.data.instruction import InstructionEvaluation, InstructionSamples, SampleShape
from retrolit.data.preparation import InstructionConfig, prepare_instruction
from retrolit.retrieval.conversation_neighbors import ConversationNeighbors, RetrievedForConversations
from retrolit.storage import fingerprint
from retrolit.tokens import Blend, load_tokenizer
from retrolit.tokens.chat_template import ChatTemplate, load_chat_template
from retrolit.tokens.conversation_config import ConversationsConfig
from retrolit.tokens.prepare_conversations import ConversationStore
from retrolit.tokens.progress import visible
from retrolit.training.training_data import TrainingData


@dataclass
class ConversationCorpus:
    """One corpus of one split."""

    name: str
    store: ConversationStore
    sizes: dict[str, int]
    """Of the split: documents, tokens, trained tokens, and bytes of text that these stand for."""
    too_long: int
    """Conversations of all splits that were left out."""
    weight: float | None
    """Its share of the training conversations, relative to the others'; by their number when not given."""


class InstructionData(TrainingData):
    """Conversations, of which only replies are trained; prepares the data first where they are missing.

    Args:
        data: A data.yaml with `conversations`, or its fields: which conversations, which template and tokenizer, where
            the prepared data lie.
        sequence_length: Tokens of a sample (T) at most; a batch that is not packed is as long as its longest
            conversation.
        global_batch_size: Samples of one optimizer step, over all devices.
        micro_batch_size: Samples a device takes at once; what is missing to the global batch is accumulated.
            As much as possible when not given.
        packed: Several short conversations to a sample, none of which sees another.
        chunk_length: Samples are filled up to a multiple of it (M); it divides sequence_length.
        num_neighbors: Neighbors that are read for every chunk (K), for a Retro: the conversation's contexts, or what
            was retrieved for the chunk, as the data.yaml says. With 0 nothing is retrieved.
        num_retrieved_chunks: Length of a neighbor in chunks; a longer context is cut.
        seed: Decides the order of the samples, and with the step all other randomness of training.
        num_workers: Processes that read ahead; 0 reads in the training process, which is quick.
    """

    splits_setting = "conversations.splits"

    def __init__(
        self,
        data: InstructionConfig,
        *,
        sequence_length: int,
        global_batch_size: int,
        micro_batch_size: int | None = None,
        packed: bool = False,
        chunk_length: int = 64,
        num_neighbors: int = 0,
        num_retrieved_chunks: int = 2,
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
        kept = data.conversations
        if num_neighbors:
            _check_neighbors(kept, num_neighbors)
        else:  # a model without neighbors needs no database
            data = replace(data, conversations=replace(kept, retrieval=None))
        moved = chunk_length - 1 if num_neighbors else 0
        if kept.max_length - 1 + moved > sequence_length:
            why = f", and chunk_length - 1 = {moved} more to have questions end where chunks do" if moved else ""
            raise ValueError(
                f"data.sequence_length: expected at least {kept.max_length - 1 + moved}, one less than the data's "
                f"conversations.max_length ({kept.max_length}){why}, got {sequence_length}"
            )
        length = num_retrieved_chunks * chunk_length
        if num_neighbors and kept.num_neighbors and length > kept.neighbor_length:
            raise ValueError(
                f"data.num_retrieved_chunks: expected neighbors of at most the data's conversations.neighbor_length "
                f"({kept.neighbor_length}) tokens, got {num_retrieved_chunks} x {chunk_length} = {length}"
            )
        self.config = data
        self.packed = packed
        self.corpora: dict[str, list[ConversationCorpus]] = {}
        """Of each split."""
        self.retrieved: dict[str, list[ConversationNeighbors]] = {}
        """Of each split, those of each corpus; empty where nothing is retrieved."""

    def prepare_data(self) -> None:
        """Ids, masks and neighbors, where they are missing; on one process of each machine."""
        prepare_instruction(self.config, visible)

    def open(self) -> None:
        """Open what is prepared. Raises ValueError where no conversation is in the training split, or neighbors are
        those of chunks of another length."""
        found = prepare_instruction(self.config)
        prepared = found.tokens
        self.fingerprint = prepared.fingerprint
        self.tokenizer = load_tokenizer(prepared.tokenizer_folder)
        self.corpora = {
            split: [
                ConversationCorpus(
                    name=name,
                    store=ConversationStore(prefix),
                    sizes=prepared.manifests[name].sizes[split],
                    too_long=prepared.manifests[name].sizes["too_long"],
                    weight=prepared.weights[name],
                )
                for name, prefix in stores.items()
            ]
            for split, stores in prepared.stores.items()
        }
        if not self.corpora["train"]:
            raise ValueError(
                "the train split holds no conversation; give it a larger share in the data's conversations.splits"
            )
        if found.retrieval is not None:
            self.retrieved = self._open_retrieved(found.retrieval)

    @property
    def chat_template(self) -> ChatTemplate:
        """How the conversations are written; it is saved with the model."""
        return load_chat_template(self.config.conversations.template)

    @property
    def shape(self) -> SampleShape:
        """Of the samples."""
        length = self.num_retrieved_chunks * self.chunk_length if self.num_neighbors else 0
        return SampleShape(self.sequence_length, self.chunk_length, self.num_neighbors, length)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all devices: in samples that are not packed, of the mean conversation."""
        if self.packed:
            return self.global_batch_size * self.sequence_length
        corpora = self.corpora["train"]
        means = [corpus.sizes["tokens"] / len(corpus.store) for corpus in corpora]
        return round(self.global_batch_size * (_mean(means, self._weights(corpora)) - 1))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that draw as many conversations as there are, but at least one."""
        number = sum(len(corpus.store) for corpus in self.corpora["train"])
        samples = self.training_samples()
        if samples.packing is not None:
            number = round(number * 1000 / samples.num_draws(1000))
        return max(1, number // self.global_batch_size)

    def bytes_per_token(self, split: str) -> float:
        """Bytes of text that a trained token stands for on average, in the corpora of this split as they are drawn."""
        corpora = [corpus for corpus in self.corpora[split] if corpus.sizes["trained"]]
        weights = self._weights(corpora) if split == "train" else [len(corpus.store) for corpus in corpora]

        def mean(name: str) -> float:
            return _mean([corpus.sizes[name] / len(corpus.store) for corpus in corpora], weights)

        return mean("bytes") / mean("trained")

    def training_samples(self) -> InstructionSamples:
        """The endless training samples, by global number."""
        corpora = self.corpora["train"]
        blend, stores = Blend(self._weights(corpora), seed=self.seed), [corpus.store for corpus in corpora]
        retrieved = self.retrieved.get("train", [])
        return InstructionSamples(stores, blend, self.shape, self.seed, self.packed, retrieved)

    def evaluation_samples(self, split: str) -> InstructionEvaluation:
        """All conversations of the validation or test split, in order, each a sample."""
        stores = [corpus.store for corpus in self.corpora[split]]
        return InstructionEvaluation(stores, self.shape, self.retrieved.get(split, []))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        settings: dict[str, Any] = {"packed": self.packed}
        if self.num_neighbors:
            settings |= {"num_neighbors": self.num_neighbors, "num_retrieved_chunks": self.num_retrieved_chunks}
        if self.retrieved:
            tables = [neighbors.table.manifest.fingerprint for neighbors in self.retrieved["train"]]
            settings["prepared neighbors"] = fingerprint(tables)
        return super().state_dict() | settings

    def accounting(self) -> list[str]:
        """One line a corpus: its conversations, and how often the run reads them."""
        corpora, samples = self.corpora["train"], self.training_samples()
        assert self.trainer is not None
        num_samples = max(0, self.trainer.max_steps) * self.global_batch_size
        drawn = samples.blend.counts(samples.num_draws(num_samples))
        lines = [
            f"{corpus.name}: {len(corpus.store):,} conversations, {corpus.sizes['trained']:,} of "
            f"{corpus.sizes['tokens']:,} tokens trained; the run draws {number:,} ({number / len(corpus.store):.3f} "
            f"epochs)" + (f"; {corpus.too_long:,} were too long" if corpus.too_long else "")
            for corpus, number in zip(corpora, drawn, strict=True)
        ]
        if self.packed:
            lines.append(f"packed: {sum(drawn):,} conversations in {num_samples:,} samples")
        return lines

    def _open_retrieved(self, found: RetrievedForConversations) -> dict[str, list[ConversationNeighbors]]:
        if found.database.chunk_length != self.chunk_length:
            raise ValueError(
                f"data.chunk_length: expected {found.database.chunk_length}, that of {found.index_folder}, in which "
                f"neighbors are retrieved, got {self.chunk_length}"
            )
        return {
            split: [
                ConversationNeighbors(
                    found.tables[split][corpus.name], corpus.store, found.database, self.tokenizer.eod_id
                )
                for corpus in corpora
            ]
            for split, corpora in self.corpora.items()
        }

    def _weights(self, corpora: list[ConversationCorpus]) -> list[float]:
        # Either all corpora have a weight or none has: ConversationsConfig sees to it.
        return [corpus.weight if corpus.weight is not None else len(corpus.store) for corpus in corpora]


def _check_neighbors(kept: ConversationsConfig, number: int) -> None:
    """Raises ValueError where the data keep fewer neighbors, of one kind or the other."""
    for name, size, there in (
        ("num_neighbors", kept.num_neighbors, kept.num_neighbors or kept.retrieval is None),
        ("num_saved", kept.num_saved, kept.retrieval is not None),
    ):
        if there and number > size:
            raise ValueError(
                f"data.num_neighbors: expected at most the data's conversations.{name} ({size}), got {number}"
            )


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
