"""From the corpora of a data.yaml to a tokenizer and token stores on disk.

    <folder>/sources.json                  what the corpora consisted of, so that unchanged files are not read again
    <folder>/tokenizer-<key>/              the tokenizer and its manifest
    <folder>/tokens/<corpus>-<key>/        train, validation and test stores and their manifest; of a database-only
                                           corpus one store, database
    <folder>/tokens/.<corpus>-<key>.work/  blocks of unfinished work

A key is made of all settings and inputs that decide what is inside: other settings make another folder, what is
finished is only opened, and nothing is ever deleted but the blocks of work that is done. Once the stores are there, the
corpora themselves are no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from retrolit.storage import Manifest, fingerprint, lock
from retrolit.storage.blocks import EVERYTHING, Share, default_processes
from retrolit.tokens.config import SPLITS, CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.corpus import documents, open_corpus
from retrolit.tokens.open_corpora import CorpusSettings, OpenCorpus, open_corpora
from retrolit.tokens.prepare_stores import StoresJob
from retrolit.tokens.prepare_tokenizer import prepare_tokenizer
from retrolit.tokens.progress import Progress, silent
from retrolit.tokens.readers import Document
from retrolit.tokens.store import TokenStore
from retrolit.tokens.tokenize import DATABASE, Tokenizing, join_blocks, join_database, text_length
from retrolit.tokens.tokenizer import Tokenizer, load_tokenizer

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
    """Name of each corpus -> the manifest of its stores; `sizes` counts documents, tokens and bytes of each store."""

    fingerprint: str
    """64 hexadecimal digits that change when any id in any train, validation or test store does."""

    database: dict[str, Path] = field(default_factory=dict)
    """Name of each database-only corpus that has documents -> prefix for `TokenStore`."""


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
    corpora = open_corpora(config.corpora, folder, open_corpus, documents)
    trained = {name: corpora[name] for name in config.trained}
    with lock(folder / ".tokenizer.lock"):
        tokenizer_folder = prepare_tokenizer(config, trained, folder, progress)
    tokenizer = load_tokenizer(tokenizer_folder)

    def job(
        name: str,
        corpus: OpenCorpus[CorpusConfig, Document],
        join: Callable[..., dict[str, Any]],
        settings: dict[str, Any],
        inputs: dict[str, str],
    ) -> StoresJob:
        made_with = {"tokenizer": tokenizer_folder.name, "vocab_size": tokenizer.vocab_size}
        return StoresJob(
            name,
            corpus,
            kind="tokens",
            settings={**corpus.config.reading, **settings, **made_with},
            inputs={"tokenizer": tokenizer.fingerprint, **inputs},
            folder=folder / "tokens",
            work=Tokenizing(tokenizer),
            join=partial(join, vocab_size=tokenizer.vocab_size),
            size=text_length,
        )

    jobs = {}
    for name, corpus in trained.items():
        shares = shares_of(corpus.config, config.splits)
        jobs[name] = job(name, corpus, partial(join_blocks, shares=shares), {"splits": shares}, {})
    weights = {name: corpus.weight for name, corpus in config.corpora.items()}
    prepared = run_jobs(jobs, tokenizer_folder, tokenizer, weights, folder, share, progress, processes)
    if prepared is None or not config.database_only:
        return prepared
    evaluated = [prefix for split in ("validation", "test") for prefix in prepared.stores[split].values()]
    inputs = {"evaluation documents": fingerprint(sorted(TokenStore(prefix).fingerprint for prefix in evaluated))}
    join = partial(join_database, evaluated=evaluated)
    jobs = {name: job(name, corpora[name], join, {}, inputs) for name in config.database_only}
    manifests = _make_stores(jobs, folder, share, progress, processes)
    if manifests is None:
        return None
    folders = prepared.folders | {name: each.target for name, each in jobs.items()}
    manifests |= prepared.manifests
    return replace(
        prepared,
        folders={name: folders[name] for name in corpora},
        manifests={name: manifests[name] for name in corpora},
        database={
            name: each.target / DATABASE for name, each in jobs.items() if manifests[name].sizes[DATABASE]["documents"]
        },
    )


def shares_of(corpus: CorpusSettings, splits: dict[str, float]) -> dict[str, float]:
    """The shares that a corpus's records are divided by."""
    return dict(splits) if corpus.split is None else {corpus.split: 1.0}


def run_jobs(
    jobs: dict[str, StoresJob],
    tokenizer_folder: Path,
    tokenizer: Tokenizer,
    weights: dict[str, float | None],
    folder: Path,
    share: Share,
    progress: Progress,
    processes: int | None,
) -> PreparedTokens | None:
    """The stores of all jobs' splits, made where they are missing; None as `prepare_tokens_share`."""
    manifests = _make_stores(jobs, folder, share, progress, processes)
    if manifests is None:
        return None
    folders = {name: job.target for name, job in jobs.items()}
    stores = {
        split: {name: folders[name] / split for name in jobs if manifests[name].sizes[split]["documents"]}
        for split in SPLITS
    }
    together = {name: manifest.fingerprint for name, manifest in manifests.items()}
    key = fingerprint([tokenizer.fingerprint, together])
    return PreparedTokens(tokenizer_folder, folders, stores, weights, manifests, key)


def _make_stores(
    jobs: dict[str, StoresJob], folder: Path, share: Share, progress: Progress, processes: int | None
) -> dict[str, Manifest] | None:
    """Does all jobs that are not done; their manifests, or None where rank 0 has still to finish."""
    manifests: dict[str, Manifest] = {}
    # Rank 0 of several, or one process alone, is the only one to join blocks.
    with lock(folder / ".tokens.lock") if share.rank == 0 else nullcontext():
        for name, job in jobs.items():
            job.set_aside_damaged()
            if not job.target.exists():
                job.run(progress, processes or default_processes(), share)
            if job.target.exists():
                manifests[name] = job.open()
    return manifests if len(manifests) == len(jobs) else None
