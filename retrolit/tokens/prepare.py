"""From the corpora of a data.yaml to a tokenizer and token stores on disk.

    <folder>/sources.json                  what the corpora consisted of, so that unchanged files are not read again
    <folder>/tokenizer-<key>/              the tokenizer and its manifest
    <folder>/tokens/<corpus>-<key>/        train, validation and test stores and their manifest
    <folder>/tokens/.<corpus>-<key>.work/  blocks of unfinished work

A key is made of all settings and inputs that decide what is inside: other settings make another folder, what is
finished is only opened, and nothing is ever deleted but the blocks of work that is done. Once the stores are there, the
corpora themselves are no longer needed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrolit.storage import Manifest, atomic_folder, fingerprint, lock, read_json, write_json
from retrolit.storage.blocks import EVERYTHING, Share, default_processes, run_blocks
from retrolit.tokens.bpe import train_bpe
from retrolit.tokens.config import SPLITS, CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.corpus import Corpus, contents_fingerprint, documents, open_corpus
from retrolit.tokens.progress import Progress, silent
from retrolit.tokens.readers import Document
from retrolit.tokens.sample import sample_texts
from retrolit.tokens.splits import split_name, text_hash
from retrolit.tokens.tokenize import BLOCK_CHARACTERS, Tokenizing, group, join_blocks
from retrolit.tokens.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = ["CorpusConfig", "PreparedTokens", "TokenizerConfig", "TokensConfig", "prepare_tokens"]


@dataclass
class PreparedTokens:
    """Where the tokenizer and the stores lie."""

    tokenizer_folder: Path
    """For `load_tokenizer`."""

    folders: dict[str, Path]
    """Name of each corpus -> the folder of its stores."""

    stores: dict[str, dict[str, Path]]
    """train, validation and test -> name of each corpus that has documents there -> prefix for `TokenStore`."""

    weights: dict[str, float | None]
    """Name of each corpus -> its weight, None when corpora count by their size."""

    manifests: dict[str, Manifest]
    """Name of each corpus -> the manifest of its stores; `sizes` counts documents, tokens and bytes of each split."""

    fingerprint: str
    """64 hexadecimal digits that change when any id in any store does."""


def prepare_tokens(
    config: TokensConfig,
    folder: str | Path,
    progress: Progress = silent,
    processes: int | None = None,
) -> PreparedTokens:
    """Makes what is missing in `folder`, in several processes (one for each core when None), and opens the rest.

    Killed and called again, it goes on where it was. Raises ValueError and FileNotFoundError for what is wrong with the
    configuration or the corpora.
    """
    prepared = prepare_tokens_share(config, folder, EVERYTHING, progress, processes)
    assert prepared is not None
    return prepared


def prepare_tokens_share(
    config: TokensConfig,
    folder: str | Path,
    share: Share,
    progress: Progress = silent,
    processes: int | None = None,
) -> PreparedTokens | None:
    """As `prepare_tokens`, for one of several machines that work on the same folder.

    Nobody waits for another's blocks: rank 0 does its own, then what the others have left, and joins them; the others
    do theirs and get None, unless all was finished already.
    """
    folder = Path(folder)
    corpora = _open_corpora(config, folder)
    with lock(folder / ".tokenizer.lock"):
        tokenizer_folder = _prepare_tokenizer(config, corpora, folder, progress)
    tokenizer = load_tokenizer(tokenizer_folder)
    stores: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    folders: dict[str, Path] = {}
    manifests: dict[str, Manifest] = {}
    # Rank 0 of several, or one process alone, is the only one to join blocks.
    with lock(folder / ".tokens.lock") if share.rank == 0 else nullcontext():
        for name, corpus in corpora.items():
            job = _TokensJob(
                name,
                corpus,
                tokenizer=tokenizer,
                tokenizer_folder=tokenizer_folder,
                splits=config.splits,
                folder=folder / "tokens",
            )
            if not job.target.exists():
                job.run(progress, processes or default_processes(), share)
            if job.target.exists():
                folders[name], manifests[name] = job.target, job.open()
                for split in SPLITS:
                    if manifests[name].sizes[split]["documents"]:
                        stores[split][name] = job.target / split
    if len(manifests) < len(corpora):
        return None
    together = {name: manifest.fingerprint for name, manifest in manifests.items()}
    weights = {name: corpus.weight for name, corpus in config.corpora.items()}
    key = fingerprint([tokenizer.fingerprint, together])
    return PreparedTokens(tokenizer_folder, folders, stores, weights, manifests, key)


@dataclass
class _OpenCorpus:
    """A corpus and what it consists of; `stream` is the error when it is gone and only its contents are known."""

    config: CorpusConfig
    stream: Corpus | FileNotFoundError
    fingerprint: str

    def documents(self, skipped: Counter[str]) -> Iterator[Document]:
        return documents(self._present(), self.config, skipped)

    def position(self) -> int:
        return self._present().position()

    @property
    def size(self) -> int:
        return self._present().size

    def _present(self) -> Corpus:
        if isinstance(self.stream, FileNotFoundError):
            raise self.stream
        return self.stream


def _open_corpora(config: TokensConfig, folder: Path) -> dict[str, _OpenCorpus]:
    known = read_json(folder / "sources.json") if (folder / "sources.json").exists() else {}
    contents: dict[str, Any] = dict(known)
    opened = {}
    for name, corpus in config.corpora.items():
        try:
            stream = open_corpus(corpus)
            contents[corpus.source] = stream.contents(known.get(corpus.source))
        except FileNotFoundError as error:
            if corpus.source not in known:
                raise
            stream = error
        opened[name] = _OpenCorpus(corpus, stream, contents_fingerprint(contents[corpus.source]))
    if contents != known:
        write_json(folder / "sources.json", contents)
    return opened


def _prepare_tokenizer(config: TokensConfig, corpora: dict[str, _OpenCorpus], folder: Path, progress: Progress) -> Path:
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
        reading = {name: _reading_settings(corpus.config) for name, corpus in corpora.items()}
        settings |= {"vocab_size": wanted.vocab_size, "sample_bytes": wanted.sample_bytes, "splits": config.splits}
        settings["corpora"] = reading
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
        sizes = {"vocab_size": tokenizer.vocab_size}
        inputs = {**inputs, "fingerprint": tokenizer.fingerprint}
        Manifest("tokenizer", settings, inputs, sizes, files).write(partial)
    return target


def _train(config: TokensConfig, corpora: dict[str, _OpenCorpus], progress: Progress) -> Tokenizer:
    def train_texts() -> Iterator[str]:
        for name, corpus in corpora.items():
            with progress(f"reading {name} for the tokenizer", corpus.size) as advance:
                for number, document in enumerate(corpus.documents(Counter())):
                    if number % 1000 == 0:
                        advance(corpus.position())
                    split = corpus.config.split or split_name(text_hash(document.text.encode()), config.splits)
                    if split == "train":
                        yield document.text

    texts = sample_texts(train_texts(), config.tokenizer.sample_bytes)
    with progress(f"training a tokenizer of {config.tokenizer.vocab_size:,} ids", None):
        return train_bpe(texts, config.tokenizer.vocab_size)


def _reading_settings(config: CorpusConfig) -> dict[str, Any]:
    """What decides which documents a corpus gives. Not on_error: where nothing is wrong, both values give the same."""
    return {"text_field": config.text_field, "separator": config.separator, "split": config.split}


class _TokensJob:
    """The stores of one corpus: where they belong, how they are made, how they are opened."""

    def __init__(
        self,
        name: str,
        corpus: _OpenCorpus,
        *,
        tokenizer: Tokenizer,
        tokenizer_folder: Path,
        splits: dict[str, float],
        folder: Path,
    ) -> None:
        self._name = name
        self._corpus = corpus
        self._tokenizer = tokenizer
        given = corpus.config.split
        self._shares = dict(splits) if given is None else {given: 1.0}
        self._settings = {
            **_reading_settings(corpus.config),
            "splits": self._shares,
            "tokenizer": tokenizer_folder.name,
            "vocab_size": tokenizer.vocab_size,
        }
        self._inputs = {"corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
        key = fingerprint([self._settings, self._inputs])[:12]
        self.target = folder / f"{name}-{key}"
        self._work = folder / f".{name}-{key}.work"

    def run(self, progress: Progress, processes: int, share: Share) -> None:
        """Does this share's blocks and, as rank 0, makes `target`."""
        skipped = Counter[str]()
        count = self._run_blocks(progress, processes, share, skipped)
        if share.rank != 0:
            if self.target.exists():  # rank 0 was faster and did our blocks too
                shutil.rmtree(self._work, ignore_errors=True)
            return
        if share.world > 1:
            skipped.clear()
            count = self._run_blocks(progress, processes, EVERYTHING, skipped)
        if count == 0:
            raise ValueError(f"corpus {self._name}: {self._corpus.config.source} holds no document")
        whole = self._work / "whole"
        shutil.rmtree(whole, ignore_errors=True)  # what a killed run left
        whole.mkdir()
        with progress(f"joining {self._name}", None):
            sizes = join_blocks(
                self._work, count, folder=whole, vocab_size=self._tokenizer.vocab_size, shares=self._shares
            )
            sizes["skipped"] = dict(skipped)
            files: dict[str, dict[str, Any]] = {path.name: {} for path in sorted(whole.iterdir())}
            Manifest("tokens", self._settings, self._inputs, sizes, files).write(whole)
        whole.rename(self.target)
        shutil.rmtree(self._work)

    def open(self) -> Manifest:
        """The manifest of the finished stores. Raises ValueError when files are damaged or records were skipped under
        another `on_error`."""
        manifest = Manifest.read(self.target, "tokens")
        manifest.verify(self.target)
        bad = {kind: count for kind, count in manifest.sizes["skipped"].items() if kind != "empty document"}
        if bad and self._corpus.config.on_error == "stop":
            counts = ", ".join(f"{count} x {kind}" for kind, count in bad.items())
            raise ValueError(
                f"{self.target}: was made with on_error: skip and lacks records ({counts}), this run asks for "
                f"on_error: stop; mend the records, or set on_error: skip"
            )
        return manifest

    def _run_blocks(self, progress: Progress, processes: int, share: Share, skipped: Counter[str]) -> int:
        with progress(f"tokenizing {self._name}", self._corpus.size) as advance:

            def groups() -> Iterator[list[Document]]:
                for together in group(self._corpus.documents(skipped), BLOCK_CHARACTERS):
                    advance(self._corpus.position())
                    if share.rank != 0 and self.target.exists():
                        return
                    yield together

            return run_blocks(self._work, groups(), Tokenizing(self._tokenizer), processes, share)
