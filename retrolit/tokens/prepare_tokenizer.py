"""The tokenizer of a data.yaml on disk: <folder>/tokenizer-<key>/, trained, copied or noted down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrolit.storage import Manifest, atomic_folder, fingerprint
from retrolit.tokens.bpe import train_bpe
from retrolit.tokens.config import TokensConfig
from retrolit.tokens.open_corpora import OpenCorpus
from retrolit.tokens.progress import Progress
from retrolit.tokens.sample import sample_texts
from retrolit.tokens.splits import split_name, text_hash
from retrolit.tokens.tokenizer import ByteTokenizer, Tokenizer, keeps_text, load_tokenizer


def prepare_tokenizer(config: TokensConfig, corpora: dict[str, OpenCorpus], folder: Path, progress: Progress) -> Path:
    """The folder of the tokenizer, made when it is missing."""
    wanted = config.tokenizer
    settings: dict[str, Any] = {"type": wanted.type}
    inputs: dict[str, str] = {}
    tokenizer: Tokenizer | None = None
    if wanted.type == "bytes":
        tokenizer = ByteTokenizer()
    elif wanted.type == "file":
        assert wanted.path is not None
        tokenizer = load_tokenizer(wanted.path, wanted.eod_token)
        inputs = {"tokenizer": tokenizer.fingerprint}
    else:
        settings |= {"vocab_size": wanted.vocab_size, "sample_characters": wanted.sample_characters}
        settings |= {"splits": config.splits, "corpora": {name: corpus.reading for name, corpus in corpora.items()}}
        inputs = {name: corpus.fingerprint for name, corpus in corpora.items()}
    target = folder / f"tokenizer-{fingerprint([settings, inputs])[:12]}"
    if target.exists():
        Manifest.read(target, "tokenizer").verify(target)
        return target
    if tokenizer is None:
        tokenizer = _train(config, corpora, progress)
    with atomic_folder(target) as partial:
        tokenizer.save(partial)
        files: dict[str, dict[str, Any]] = {path.name: {} for path in sorted(partial.iterdir())}
        sizes = {"vocab_size": tokenizer.vocab_size, "keeps_text": keeps_text(tokenizer)}
        Manifest("tokenizer", settings, inputs, sizes, files).write(partial)
    return target


def _train(config: TokensConfig, corpora: dict[str, OpenCorpus], progress: Progress) -> Tokenizer:
    def train_texts() -> Iterator[str]:
        for name, corpus in corpora.items():
            with progress(f"reading {name} for the tokenizer", corpus.size) as advance:
                for number, document in enumerate(corpus.documents(Counter())):
                    if number % 1000 == 0:
                        advance(corpus.position())
                    split = corpus.config.split or split_name(text_hash(document.text.encode()), config.splits)
                    if split == "train":
                        yield document.text

    texts = sample_texts(train_texts(), config.tokenizer.sample_characters)
    with progress(f"training a tokenizer of {config.tokenizer.vocab_size:,} ids", None):
        return train_bpe(texts, config.tokenizer.vocab_size)
