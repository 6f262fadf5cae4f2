"""What a data.yaml describes, and making it: the artifacts that training reads."""

from __future__ import annotations

from dataclasses import dataclass

from retrolit.storage.blocks import EVERYTHING, Share
from retrolit.tokens.config import TokensConfig
from retrolit.tokens.prepare import PreparedTokens, prepare_tokens_share
from retrolit.tokens.progress import Progress, silent


@dataclass
class DataConfig:
    """The fields of a data.yaml; one file serves `retrolit prepare` and every training recipe beside it."""

    folder: str
    """Where the artifacts go, relative to the current directory, e.g. prepared/quickstart."""

    tokens: TokensConfig
    """Corpora, tokenizer and splits."""


@dataclass
class Prepared:
    """The artifacts of a data.yaml, whole."""

    folder: str
    """Where all of them lie."""

    tokens: PreparedTokens
    """The tokenizer and the token stores."""


def prepare(config: DataConfig, progress: Progress = silent) -> Prepared:
    """Makes the artifacts that are missing, in order, and opens the others. Raises ValueError, FileNotFoundError."""
    prepared = prepare_share(config, EVERYTHING, progress)
    assert prepared is not None
    return prepared


def prepare_share(config: DataConfig, share: Share, progress: Progress = silent) -> Prepared | None:
    """As `prepare`, as one of several machines; None when others have still to finish (see `prepare_tokens_share`)."""
    tokens = prepare_tokens_share(config.tokens, config.folder, share, progress)
    return None if tokens is None else Prepared(config.folder, tokens)
