"""The tokenizer of a data.yaml on disk: <folder>/tokenizer-<key>/, trained, copied or noted down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retrolit.storage import Manifest, atomic_folder, fingerprint, set_aside_damaged
from retrolit.tokens.bpe import BPETokenizer, train_bpe
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.open_corpora import OpenCorpus
from retrolit.tokens.progress import Progress
from retrolit.tokens.readers import Document
from retrolit.tokens.sample import sample_texts
from retrolit.tokens.splits import split_name, text_hash
from retrolit.tokens.tokenizer import ByteTokenizer, Tokenizer, keeps_text, load_tokenizer


def prepare_tokenizer(
    config: TokensConfig, corpora: dict[str, OpenCorpus[CorpusConfig, Document]], folder: Path, progress: Progress
) -> Path:
    """The folder of the tokenizer, made when it is missing."""
    wanted = config.tokenizer
    if wanted.type != "bpe":
        return prepare_given_tokenizer(wanted, folder)
    settings = {"type": "bpe", "vocab_size": wanted.vocab_size, "sample_characters": wanted.sample_characters}
    settings |= {"splits": config.splits, "corpora": {name: corpus.config.reading for name, corpus in corpora.items()}}
    inputs = {name: corpus.fingerprint for name, corpus in corpora.items()}
    return _prepared(wanted, settings, inputs, folder, lambda: _train(config, corpora, progress))


def prepare_given_tokenizer(wanted: TokenizerConfig, folder: Path) -> Path:
    """The folder of a tokenizer that needs no corpora, copied there when it is missing."""
    tokenizer = ByteTokenizer() if wanted.path is None else load_tokenizer(wanted.path, wanted.eod_token)
    if wanted.special_tokens:
        if not isinstance(tokenizer, BPETokenizer):
            raise ValueError(
                "tokenizer.special_tokens: expected type bpe, or file with a tokenizer.json to add them to; "
                f"{wanted.path or 'type bytes'} can get none, choose another tokenizer or template"
            )
        tokenizer = tokenizer.with_special_tokens(wanted.special_tokens)
    inputs = {"tokenizer": tokenizer.fingerprint} if wanted.type == "file" else {}
    return _prepared(wanted, {"type": wanted.type}, inputs, folder, lambda: tokenizer)


def _prepared(
    wanted: TokenizerConfig,
    settings: dict[str, Any],
    inputs: dict[str, str],
    folder: Path,
    make: Callable[[], Tokenizer],
) -> Path:
    # Tokenizers made before there were special tokens keep their names.
    settings |= {"special_tokens": wanted.special_tokens} if wanted.special_tokens else {}
    target = folder / f"tokenizer-{fingerprint([settings, inputs])[:12]}"
    set_aside_damaged(target, "tokenizer")
    if target.exists():
        return target
    tokenizer = make()
    with atomic_folder(target) as partial:
        tokenizer.save(partial)
        files: dict[str, dict[str, Any]] = {path.name: {} for path in sorted(partial.iterdir())}
        sizes = {"vocab_size": tokenizer.vocab_size, "keeps_text": keeps_text(tokenizer)}
        Manifest("tokenizer", settings, inputs, sizes, files).write(partial)
    return target


def _train(
    config: TokensConfig, corpora: dict[str, OpenCorpus[CorpusConfig, Document]], progress: Progress
) -> Tokenizer:
    def train_texts() -> Iterator[str]:
        for name, corpus in corpora.items():
            with progress(f"reading {name} for the tokenizer", corpus.size) as advance:
                for number, document in enumerate(corpus.records(Counter())):
                    if number % 1000 == 0:
                        advance(corpus.position())
                    split = corpus.config.split or split_name(text_hash(document.text.encode()), config.splits)
                    if split == "train":
                        yield document.text

    texts = sample_texts(train_texts(), config.tokenizer.sample_characters)
    with progress(f"training a tokenizer of {config.tokenizer.vocab_size:,} ids", None):
        return train_bpe(texts, config.tokenizer.vocab_size, config.tokenizer.special_tokens)
