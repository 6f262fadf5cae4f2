"""What a data.yaml says about corpora, the tokenizer and splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retrolit.tokens.bpe import SMALLEST_BPE
from retrolit.tokens.recipe_path import RecipePath

SPLITS = ("train", "validation", "test")


@dataclass
class CorpusConfig:
    """Where documents come from and how they are read."""

    source: RecipePath
    """A file, folder or glob (.txt, .jsonl, .parquet, also .gz .zst .xz .bz2), python-docs, or hf:NAME."""

    text_field: str = "text"
    """.jsonl, .parquet and hf: the field that holds the document."""

    separator: str | None = None
    """.txt: the line between two documents ("" is a blank line); when not given a file is one document."""

    heading: str | None = None
    """.txt: a regular expression; a line that matches it, between blank lines, begins a document and is its first line
    (WikiText: "^ = [^=].* = $")."""

    longest: int | None = None
    """Characters of a document; a longer one is cut into several, at the last end of a paragraph, line or sentence that
    fits. So the parts of a book find each other, and the splits have a part each. Not cut when not given."""

    on_error: Literal["stop", "skip"] = "stop"
    """What a bad record does: stop names file and line; skip leaves it out and counts it in the manifest."""

    split: Literal["train", "validation", "test"] | None = None
    """Puts every document of this corpus into one split; when not given, `splits` divides them."""

    weight: float | None = None
    """Share of the training samples, relative to the other corpora's weights; by size when no corpus has one."""

    database_only: bool = False
    """Puts every document into the database of `retrieval`, where neighbors are found, and into no split: nothing of
    this corpus is trained or evaluated on. Copies of validation and test documents are left out and counted."""

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that decide which documents it gives (on_error changes nothing where nothing is wrong)."""
        names = ["text_field", "separator", "split"]
        # Stores made before there were headings, parts and database-only corpora keep their names.
        names += [name for name in ("heading", "longest") if getattr(self, name) is not None]
        names += ["database_only"] if self.database_only else []
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"CorpusConfig.on_error: expected stop or skip, got {self.on_error!r}")
        if self.heading is not None:
            if self.separator is not None:
                raise ValueError(
                    "CorpusConfig.heading: a .txt is divided by headings or by a separator, got both; leave one out"
                )
            try:
                re.compile(self.heading)
            except re.error as error:
                raise ValueError(
                    f"CorpusConfig.heading: expected a regular expression, got {self.heading!r}: {error}"
                ) from error
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"CorpusConfig.longest: expected at least 1 character, got {self.longest}")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"CorpusConfig.split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"CorpusConfig.weight: expected more than 0, got {self.weight}")
        for name, value in (("weight", self.weight), ("split", self.split)):
            if self.database_only and value is not None:
                raise ValueError(
                    f"CorpusConfig.{name}: a database_only corpus is neither trained nor evaluated on, got {value}; "
                    f"leave out one of the two"
                )


@dataclass
class TokenizerConfig:
    """Which tokenizer the documents get."""

    type: Literal["bytes", "bpe", "file"] = "bpe"
    """bytes (needs nothing), bpe (trained on the train documents), or file (an existing one, at `path`)."""

    vocab_size: int = 32_768
    """bpe: number of ids, the end of a document included."""

    sample_characters: int = 100_000_000
    """bpe: it learns from a random sample of the train documents of about this many characters."""

    path: RecipePath | None = None
    """file: tokenizer.json, a SentencePiece .model, or a folder (a model's, or GPT-2's vocab.json + merges.txt)."""

    eod_token: str | None = None
    """file: the token that closes a document, where the files do not say."""

    special_tokens: list[str] = field(default_factory=list)
    """bpe, and file with a tokenizer.json: more tokens that no text can spell, e.g. those of a chat template."""

    def __post_init__(self) -> None:
        if self.type not in ("bytes", "bpe", "file"):
            raise ValueError(f"TokenizerConfig.type: expected bytes, bpe or file, got {self.type!r}")
        if (self.type == "file") != (self.path is not None):
            raise ValueError(
                f"TokenizerConfig.path: expected with type file and no other, got {self.type} and {self.path}"
            )
        if self.type == "bpe" and self.vocab_size < SMALLEST_BPE:
            raise ValueError(f"TokenizerConfig.vocab_size: expected at least {SMALLEST_BPE}, got {self.vocab_size}")
        if self.sample_characters < 1:
            raise ValueError(f"TokenizerConfig.sample_characters: expected more than 0, got {self.sample_characters}")


@dataclass
class TokensConfig:
    """Corpora, tokenizer and splits: all that decides the token ids on disk."""

    corpora: dict[str, CorpusConfig]
    """Name of each corpus -> where it comes from."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Which tokenizer the documents get."""

    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.98, "validation": 0.01, "test": 0.01})
    """Shares of the documents; which split one falls into is decided by a hash of its text alone."""

    @property
    def trained(self) -> dict[str, CorpusConfig]:
        """The corpora that are divided into splits."""
        return {name: corpus for name, corpus in self.corpora.items() if not corpus.database_only}

    @property
    def database_only(self) -> dict[str, CorpusConfig]:
        """The corpora that are read for the database alone."""
        return {name: corpus for name, corpus in self.corpora.items() if corpus.database_only}

    def __post_init__(self) -> None:
        if self.database_only and not self.trained:
            raise ValueError(
                f"TokensConfig.corpora: expected at least one corpus to train on, got only database_only ones "
                f"({', '.join(self.database_only)})"
            )
        check_names("TokensConfig", self.database_only)
        check_corpora("TokensConfig", self.trained)
        check_splits("TokensConfig", self.splits)


def check_corpora(config: str, corpora: Mapping[str, Any]) -> None:
    """Raises ValueError where there are none, one has an odd name, or some have a weight and others none."""
    if not corpora:
        raise ValueError(f"{config}.corpora: expected at least one corpus, got none")
    check_names(config, corpora)
    weighted = [name for name, corpus in corpora.items() if corpus.weight is not None]
    if weighted and len(weighted) < len(corpora):
        rest = sorted(set(corpora) - set(weighted))
        raise ValueError(f"{config}.corpora: {', '.join(rest)} lack a weight; give one to all corpora or to none")


def check_names(config: str, corpora: Mapping[str, Any]) -> None:
    """Raises ValueError where a corpus has an odd name."""
    for name in corpora:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{config}.corpora: a name is made of letters, digits, - and _; got {name!r}")


def check_splits(config: str, splits: dict[str, float]) -> None:
    """Raises ValueError where the shares are not those of the splits, train among them, or do not add up to one."""
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown or any(share < 0 for share in splits.values()) or not splits.get("train"):
        raise ValueError(f"{config}.splits: expected shares of {', '.join(SPLITS)} with train above 0, got {splits}")
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise ValueError(f"{config}.splits: expected shares that add up to 1, got {sum(splits.values())}")
