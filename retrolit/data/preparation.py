"""What a data.yaml describes, and making it: the artifacts that training reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from retrolit.retrieval.conversation_neighbors import RetrievedForConversations, retrieve_for_conversations
from retrolit.retrieval.prepare import PreparedRetrieval, RetrievalConfig, prepare_retrieval
from retrolit.storage.blocks import EVERYTHING, Share
from retrolit.tokens.config import TokensConfig
from retrolit.tokens.conversation_config import ConversationsConfig
from retrolit.tokens.prepare import PreparedTokens, prepare_tokens_share
from retrolit.tokens.prepare_conversations import prepare_conversations
from retrolit.tokens.progress import Progress, silent


@dataclass
class DataConfig:
    """The fields of a data.yaml; one file serves `retrolit prepare` and every training recipe beside it."""

    folder: str
    """Where the artifacts go, relative to the current directory, e.g. prepared/quickstart."""

    tokens: TokensConfig
    """Corpora, tokenizer and splits."""

    retrieval: RetrievalConfig | None = None
    """Chunk database, index and neighbor tables; none are made if not given."""

    def __post_init__(self) -> None:
        if self.retrieval is None and self.tokens.database_only:
            raise ValueError(
                f"tokens.corpora: {', '.join(self.tokens.database_only)}: database_only, but there is no `retrieval:` "
                f"part to make a database; add one, or leave them out"
            )

    def without_retrieval(self) -> DataConfig:
        """What a model without neighbors reads: the corpora it is trained on, and no database."""
        return DataConfig(self.folder, replace(self.tokens, corpora=self.tokens.trained))


@dataclass
class InstructionConfig:
    """The fields of a data.yaml of conversations; one file serves `retrolit prepare` and every recipe beside it."""

    folder: str
    """Where the artifacts go, relative to the current directory, e.g. prepared/instruct."""

    conversations: ConversationsConfig
    """Corpora, template, tokenizer and splits, and where neighbors are retrieved."""


@dataclass
class Prepared:
    """The artifacts of a data.yaml, whole."""

    folder: str
    """Where all of them lie."""

    tokens: PreparedTokens
    """The tokenizer and the token stores."""

    retrieval: PreparedRetrieval | None = None
    """The index and the neighbor tables, where the data.yaml asks for them."""


def prepare(config: DataConfig, progress: Progress = silent) -> Prepared:
    """Makes the artifacts that are missing, in order, and opens the others. Raises ValueError, FileNotFoundError."""
    prepared = prepare_share(config, EVERYTHING, progress)
    assert prepared is not None
    return prepared


def prepare_share(
    config: DataConfig, share: Share, progress: Progress = silent, tell: Callable[[str], None] = lambda line: None
) -> Prepared | None:
    """As `prepare`, as one of several machines. `tell` gets a line about the index before it is built.

    Without retrieval, None when others have still to finish (see `prepare_tokens_share`); with it, every machine waits
    for the stages before its own.
    """
    tokens = prepare_tokens_share(config.tokens, config.folder, share, progress)
    if config.retrieval is None:
        return None if tokens is None else Prepared(config.folder, tokens)
    while tokens is None:  # rank 0 is joining what all have made
        time.sleep(1)
        tokens = prepare_tokens_share(config.tokens, config.folder, share)
    retrieval = prepare_retrieval(config.retrieval, tokens, config.folder, progress, share=share, tell=tell)
    return Prepared(config.folder, tokens, retrieval)


@dataclass
class PreparedInstruction:
    """The artifacts of a data.yaml of conversations, whole."""

    tokens: PreparedTokens
    """The tokenizer and the stores of conversations."""

    retrieval: RetrievedForConversations | None = None
    """The tables of their neighbors, where the data.yaml asks for them."""


def prepare_instruction(config: InstructionConfig, progress: Progress = silent) -> PreparedInstruction:
    """Makes what is missing of the conversations, in order, opens the rest. Raises ValueError, FileNotFoundError."""
    prepared = prepare_instruction_share(config, EVERYTHING, progress)
    assert prepared is not None
    return prepared


def prepare_instruction_share(
    config: InstructionConfig, share: Share, progress: Progress = silent
) -> PreparedInstruction | None:
    """As `prepare_instruction`, as one of several machines; None and waiting as in `prepare_share`."""
    kept = config.conversations
    tokens = prepare_conversations(kept, config.folder, progress, share=share)
    if kept.retrieval is None:
        return None if tokens is None else PreparedInstruction(tokens)
    while tokens is None:  # rank 0 is joining what all have made
        time.sleep(1)
        tokens = prepare_conversations(kept, config.folder, share=share)
    found = retrieve_for_conversations(kept.retrieval, kept.num_saved, tokens, config.folder, progress, share)
    return PreparedInstruction(tokens, found)
