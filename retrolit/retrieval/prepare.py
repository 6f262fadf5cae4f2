"""From token stores to neighbor tables: embedder, embeddings, index, tables, each made when it is missing.

    <folder>/retrieval/embedder-<key>/
    <folder>/retrieval/embeddings-<key>/
    <folder>/retrieval/index-<key>/                        also what a LiveRetriever opens
    <folder>/retrieval/neighbors/<corpus>-<split>-<key>/   for every store of every split

A key is made of all settings and inputs that decide what is inside, as in tokens/prepare.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retrolit.retrieval.chunks import ChunkDatabase
from retrolit.retrieval.earlier_index import EarlierIndex
from retrolit.retrieval.embedder import KIND as EMBEDDER
from retrolit.retrieval.embedder import Embedder, load_embedder
from retrolit.retrieval.embeddings import EmbedBlock, Embeddings, embed_database
from retrolit.retrieval.index import KIND as INDEX
from retrolit.retrieval.index import Index
from retrolit.retrieval.index_build import build_index, index_settings
from retrolit.retrieval.index_plan import IndexConfig, choose_index
from retrolit.retrieval.lexical import MARK, LexicalEmbedder
from retrolit.retrieval.neighbors import KIND as NEIGHBORS
from retrolit.retrieval.neighbors import NeighborConfig, build_neighbors, neighbor_settings
from retrolit.retrieval.retriever import RETRIEVER_FILE
from retrolit.retrieval.stream_chunks import StreamChunks
from retrolit.storage import Damaged, atomic_folder, fingerprint, lock, set_aside_damaged, write_json
from retrolit.storage.blocks import EVERYTHING, Share
from retrolit.storage.manifest import FILE_NAME as MANIFEST
from retrolit.tokens import Tokenizer, TokenStore, load_tokenizer
from retrolit.tokens.prepare import PreparedTokens
from retrolit.tokens.progress import Progress, silent
from retrolit.tokens.recipe_path import RecipePath

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass
class EmbedderConfig:
    """What turns chunks into vectors."""

    type: Literal["lexical", "encoder"] = "lexical"
    """lexical (built in: shared words), or encoder (a sentence-transformers or Hugging Face model, extra hf)."""

    dimension: int = 384
    """lexical: width of a vector."""

    mark: float = MARK
    """lexical: how much a word counts for itself, beside what it foretells. Text that goes on finds its like with
    little; questions that name things find the name with much, 4 and more."""

    name: str | None = None
    """encoder: name or folder of the model."""

    pooling: Literal["mean", "mean_content", "cls"] | None = None
    """encoder: over a text's tokens; what the model's files say if not given."""

    max_length: int = 256
    """encoder: tokens of a text that are read."""

    def __post_init__(self) -> None:
        if self.type not in ("lexical", "encoder"):
            raise ValueError(f"EmbedderConfig.type: expected lexical or encoder, got {self.type!r}")
        if (self.type == "encoder") != (self.name is not None):
            raise ValueError(f"EmbedderConfig.name: expected with type encoder only, got {self.type} and {self.name}")
        if self.mark < 0:
            raise ValueError(f"EmbedderConfig.mark: expected at least 0, got {self.mark}")


@dataclass
class RetrievalConfig:
    """The `retrieval:` part of a data.yaml: the chunk database, its index, and the neighbors that are saved."""

    chunk_length: int = 64
    """Tokens of a chunk."""

    corpora: list[str] | None = None
    """Corpora whose train documents make the database, and database-only ones; all if not given."""

    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    """What turns chunks into vectors."""

    index: IndexConfig = field(default_factory=IndexConfig)
    """How the vectors are searched."""

    neighbors: NeighborConfig = field(default_factory=NeighborConfig)
    """Which neighbors are saved."""

    extends: RecipePath | None = None
    """An index folder whose database is the beginning of this one: its embedder, clusters and vectors are kept, and
    only the documents that came after it are embedded and indexed."""

    def __post_init__(self) -> None:
        if self.chunk_length < 1:
            raise ValueError(f"RetrievalConfig.chunk_length: expected at least 1, got {self.chunk_length}")


@dataclass
class PreparedRetrieval:
    """Where everything lies."""

    index_folder: Path
    """For `LiveRetriever`."""

    stores: list[Path]
    """Prefixes of the token stores of the database, in its order."""

    tables: dict[str, dict[str, Path]]
    """train, validation and test -> name of each corpus that has documents there -> folder for `NeighborTable`."""

    chunk_length: int
    """Tokens of a chunk."""

    def database(self) -> ChunkDatabase:
        """The chunk database."""
        return ChunkDatabase(
            [TokenStore(prefix) for prefix in self.stores], self.chunk_length, self.index_folder.parent
        )


def prepare_retrieval(
    config: RetrievalConfig,
    tokens: PreparedTokens,
    folder: str | Path,
    progress: Progress = silent,
    *,
    share: Share = EVERYTHING,
    tell: Callable[[str], None] = lambda line: None,
) -> PreparedRetrieval:
    """Makes what is missing or damaged in folder/retrieval and opens the rest; killed and called again, it goes on.

    Of several machines (`share`) that work on the same folder, each does its share of a stage's blocks and waits until
    rank 0 has finished the stage. `tell` gets a line about the index before it is built.

    Raises:
        ValueError: the configuration names a corpus that is not there or has no train documents, or an index to extend
            that does not fit.
        OSError: the disk is full; what is finished is kept.
    """
    folder = Path(folder) / "retrieval"
    tokenizer = load_tokenizer(tokens.tokenizer_folder)
    stores = _database_stores(config.corpora, tokens)
    database = ChunkDatabase([TokenStore(prefix) for prefix in stores], config.chunk_length, folder)
    earlier = EarlierIndex(config.extends, database) if config.extends is not None else None
    embedder_folder = earlier.embedder if earlier else _prepare_embedder(config.embedder, database, tokenizer, folder)
    embedder = load_embedder(embedder_folder, tokenizer)

    inputs = {"database": database.fingerprint, "embedder": embedder.fingerprint}
    embeddings_folder = folder / f"embeddings-{fingerprint(inputs)[:12]}"
    reuse = [path.parent for path in folder.glob("embeddings-*/manifest.json") if path.parent != embeddings_folder]
    reuse += [earlier.embeddings] if earlier else []
    embed_database(database, embedder, embeddings_folder, reuse=reuse, progress=progress, share=share)
    share.wait_for(embeddings_folder / MANIFEST)
    embeddings = Embeddings(embeddings_folder, EmbedBlock(database, embedder))

    plan = choose_index(len(database), embedder.dimension, config.index)
    settings = [
        index_settings(plan, config.index),
        embeddings.fingerprint,
        earlier.index.fingerprint if earlier else None,
    ]
    index_folder = folder / f"index-{fingerprint(settings)[:12]}"
    set_aside_damaged(index_folder, INDEX)
    not_as_asked = config.index.factory not in (None, plan.factory)
    if share.rank == 0 and (not_as_asked or not index_folder.exists()):
        tell(str(plan))
    if not index_folder.exists():
        try:
            build_index(
                embeddings,
                config.index,
                index_folder,
                queries=_held_out(config, tokens, embedder),
                extends=earlier.index if earlier else None,
                progress=progress,
                share=share,
            )
        except Damaged:  # vectors that came out otherwise when they were done again
            if share.world > 1:  # the other machines know nothing of it
                raise
            logger.warning(
                "%s: a damaged block came out otherwise when it was done again; making an index of it anew",
                embeddings_folder,
            )
            return prepare_retrieval(config, tokens, folder.parent, progress, share=share, tell=tell)
    share.wait_for(index_folder)
    index = Index(index_folder)
    parts = {"tokenizer": tokens.tokenizer_folder, "embedder": embedder_folder, "embeddings": embeddings_folder}
    write_retriever(index_folder, parts, stores, database, embedder)

    settings = [neighbor_settings(config.neighbors, config.chunk_length), index.fingerprint]
    tables: dict[str, dict[str, Path]] = {}
    for split, prefixes in tokens.stores.items():
        keys = {
            corpus: fingerprint([settings, TokenStore(prefix).fingerprint])[:12] for corpus, prefix in prefixes.items()
        }
        tables[split] = {corpus: folder / "neighbors" / f"{corpus}-{split}-{key}" for corpus, key in keys.items()}
    for table in (table for found in tables.values() for table in found.values()):
        set_aside_damaged(table, NEIGHBORS)
    for split, found in tables.items():
        for corpus, table in found.items():
            build_neighbors(
                TokenStore(tokens.stores[split][corpus]),
                database,
                index,
                embedder,
                config=config.neighbors,
                folder=table,
                progress=progress,
                share=share,
            )
            share.wait_for(table)
    return PreparedRetrieval(index_folder, stores, tables, config.chunk_length)


def _database_stores(corpora: list[str] | None, tokens: PreparedTokens) -> list[Path]:
    """The train stores of these corpora and the stores of database-only ones, in the order of the data.yaml."""
    there = tokens.stores["train"] | tokens.database
    there = {name: there[name] for name in tokens.folders if name in there}
    unknown = sorted(set(corpora or ()) - set(there))
    if unknown:
        raise ValueError(
            f"RetrievalConfig.corpora: expected corpora with train or database documents ({', '.join(there)}), got "
            f"{', '.join(unknown)}"
        )
    unread = sorted(set(tokens.database) - set(there if corpora is None else corpora))
    if unread:
        raise ValueError(
            f"RetrievalConfig.corpora: {', '.join(unread)} is database_only and not named, so nothing would read it; "
            f"name it, or leave it out of tokens.corpora"
        )
    if not there:
        raise ValueError("retrieval: expected train documents to make the database of, got none")
    return [prefix for name, prefix in there.items() if corpora is None or name in corpora]


def _prepare_embedder(config: EmbedderConfig, database: ChunkDatabase, tokenizer: Tokenizer, folder: Path) -> Path:
    """The folder of the embedder, fitted on the database when it is missing."""
    inputs = [asdict(config), tokenizer.fingerprint, database.fingerprint if config.type == "lexical" else None]
    target = folder / f"embedder-{fingerprint(inputs)[:12]}"
    with lock(folder / ".embedder.lock"):  # the first to come fits it, the others wait
        set_aside_damaged(target, EMBEDDER)
        if not target.exists():
            if config.type == "lexical":
                embedder = LexicalEmbedder.fit(database, tokenizer, config.dimension, config.mark)
            else:
                from retrolit.retrieval.encoder import EncoderEmbedder

                assert config.name is not None
                embedder = EncoderEmbedder(config.name, tokenizer, pooling=config.pooling, max_length=config.max_length)
            with atomic_folder(target) as partial:
                embedder.save(partial)
    return target


def _held_out(config: RetrievalConfig, tokens: PreparedTokens, embedder: Embedder) -> NDArray[np.float32] | None:
    """Vectors of validation chunks, drawn at random, that the index is measured with; None where there are none."""
    vectors = []
    for prefix in tokens.stores["validation"].values():
        chunks = StreamChunks(TokenStore(prefix), config.chunk_length)
        number = min(len(chunks), config.index.card_queries)
        drawn = np.random.default_rng(config.index.seed).choice(len(chunks), number, replace=False)
        parts = [chunks.tokens(chunk, chunk + 1) for chunk in np.sort(drawn).tolist()]
        if parts:
            queries = embedder.embed(np.concatenate([t for t, _ in parts]), np.concatenate([n for _, n in parts]))
            vectors.append(queries[queries.any(axis=1)])
    return np.concatenate(vectors) if vectors else None


def write_retriever(
    index: Path, parts: dict[str, Path], stores: list[Path], database: ChunkDatabase, embedder: Embedder
) -> None:
    """Writes beside the index what a LiveRetriever needs, as paths relative to it: the whole folder can be moved."""
    if (index / RETRIEVER_FILE).exists():
        return

    def relative(path: Path) -> str:
        return Path(os.path.relpath(path, index)).as_posix()

    content: dict[str, Any] = {name: relative(path) for name, path in parts.items()}
    content |= {
        "stores": [relative(prefix) for prefix in stores],
        "chunk_length": database.chunk_length,
        "chunks": len(database),
        "embedder_fingerprint": embedder.fingerprint,
    }
    write_json(index / RETRIEVER_FILE, content)
