"""What an instruction data.yaml says about conversations, the template and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from retrolit.tokens.config import SPLITS, TokenizerConfig, check_corpora, check_splits
from retrolit.tokens.recipe_path import RecipePath

Format = Literal[
    "auto", "messages", "sharegpt", "alpaca", "dolly", "self-instruct", "nvidia-qa", "openassistant",
    "prompt-completion",
]  # fmt: skip


@dataclass
class ConversationCorpusConfig:
    """Where conversations come from and how they are read."""

    source: RecipePath
    """A file, folder or glob (.jsonl, .json, .parquet, also .gz .zst .xz .bz2), or hf:NAME."""

    format: Format = "auto"
    """What a record looks like (docs/conversations.md shows each); auto sees it from each record's fields."""

    answer_form: str = ""
    """How the replies are asked for: one of the template's forms, e.g. short; free when empty."""

    on_error: Literal["stop", "skip"] = "stop"
    """What a bad record does: stop names file and line; skip leaves it out and counts it in the manifest."""

    split: Literal["train", "validation", "test"] | None = None
    """Puts every conversation of this corpus into one split; when not given, `splits` divides them."""

    split_by: Literal["question", "passages"] = "question"
    """What `splits` divide: conversations by their first question, or groups of conversations that share a passage of
    20 words or more, as where one text has many questions or is asked about in many ways."""

    weight: float | None = None
    """Share of the training conversations, relative to the other corpora's; by number when no corpus has one."""

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that decide which conversations it gives."""
        reading = {name: getattr(self, name) for name in ("format", "answer_form", "split")}
        return reading | ({} if self.split_by == "question" else {"split_by": self.split_by})

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"ConversationCorpusConfig.on_error: expected stop or skip, got {self.on_error!r}")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"ConversationCorpusConfig.split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.split_by not in ("question", "passages"):
            raise ValueError(f"ConversationCorpusConfig.split_by: expected question or passages, got {self.split_by!r}")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"ConversationCorpusConfig.weight: expected more than 0, got {self.weight}")


@dataclass
class ConversationsConfig:
    """Corpora, template, tokenizer and splits: all that decides the token ids and masks on disk."""

    corpora: dict[str, ConversationCorpusConfig]
    """Name of each corpus -> where it comes from."""

    tokenizer: TokenizerConfig
    """That of the model: bytes, or file."""

    max_length: int
    """Tokens of a conversation at most; what is longer loses contexts, then old turns, or is left out and counted."""

    template: RecipePath = "instructretro-tuning"
    """A built-in template, a .yaml file, or a Hugging Face tokenizer's folder."""

    train_on: Literal["last", "all"] = "last"
    """Which replies are trained."""

    num_contexts: int = 1
    """How many contexts of a conversation are written into its prompt."""

    num_neighbors: int = 0
    """How many contexts of a conversation are kept as neighbors too, for a Retro's encoder."""

    neighbor_length: int = 128
    """Tokens of such a neighbor; a longer context is cut."""

    retrieval: RecipePath | None = None
    """A prepared folder with an index, in which neighbors are sought for every chunk of a conversation that has no
    contexts as neighbors; its tokens are those of `tokenizer`."""

    num_saved: int = 20
    """Retrieved neighbors kept for each chunk."""

    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.98, "validation": 0.01, "test": 0.01})
    """Shares of the conversations; which split one falls into is decided by a hash of its first question alone."""

    def __post_init__(self) -> None:
        check_corpora("ConversationsConfig", self.corpora)
        check_splits("ConversationsConfig", self.splits)
        if self.tokenizer.type == "bpe":
            raise ValueError(
                "ConversationsConfig.tokenizer: expected type bytes, or file with the path of the model to tune; "
                "a bpe is trained with the model's first data"
            )
        if self.train_on not in ("last", "all"):
            raise ValueError(f"ConversationsConfig.train_on: expected last or all, got {self.train_on!r}")
        for name, least in (("max_length", 2), ("num_contexts", 0), ("num_neighbors", 0), ("neighbor_length", 1),
                            ("num_saved", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"ConversationsConfig.{name}: expected at least {least}, got {getattr(self, name)}")
