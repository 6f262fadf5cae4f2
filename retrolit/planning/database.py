"""A retrieval database before it is prepared: bytes on disk and in memory, and hours of work by measured rates."""

from __future__ import annotations

from dataclasses import dataclass

from retrolit.retrieval.index_plan import IndexPlan, choose_index
from retrolit.retrieval.prepare import RetrievalConfig

CARD_NEIGHBORS = 2
"""What an index card's queries ask for."""


@dataclass
class Database:
    """How much text there is; a data.yaml names its corpora and does not count them."""

    tokens: float
    """Tokens of the database."""

    documents: float = 0
    """Documents of it: the last chunk of each is half full in the mean. 0 counts full chunks alone."""

    stream_tokens: float | None = None
    """Tokens for whose chunks neighbors are saved; those of the database if not given."""

    vocab_size: int = 256_000
    """Of the tokenizer: from 65,500 on a token has 4 bytes, below 2."""

    dimension: int | None = None
    """Width of an encoder's vectors (1024 for BERT-large); the lexical embedder's is in the data.yaml."""

    def __post_init__(self) -> None:
        if not self.tokens > 0:
            raise ValueError(f"database.tokens: expected more than 0, got {self.tokens}")
        self.stream_tokens = self.tokens if self.stream_tokens is None else self.stream_tokens


@dataclass
class Rates:
    """How fast the work goes; the defaults are measurements of others or of ours, and say whose."""

    embed: float | None = None
    """Chunks a worker embeds a second. If not given: a lexical embedder's core 48,500 (docs/LOG.md, 2026-11-24), a
    BERT-large on an A100 1,728 (arXiv 2310.07713: 6.22 million an hour)."""

    add: float = 27_500
    """Vectors a core adds to the index a second (arXiv 2310.07713: 19 billion in 192 core hours, PQ64)."""

    query: float = 250
    """Queries a core answers a second (arXiv 2310.07713: 4 ms each in batches). An index card's `queries_per_second` is
    that of all its machine's cores."""

    workers: int = 1
    """Cores or GPUs that work side by side, as the stage wants them."""

    def __post_init__(self) -> None:
        for name in ("embed", "add", "query", "workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"rates.{name}: expected more than 0, got {value}")


LEXICAL_RATE, ENCODER_RATE = 48_500, 6.22e6 / 3600


@dataclass(frozen=True)
class DatabasePlan:
    """What a database is going to need. Hours are those of one worker, of which there may be many."""

    chunks: int
    dimension: int
    token_bytes: int
    """The token store and its index of documents."""
    embedding_bytes: int
    """float16, on disk."""
    index: IndexPlan
    training_bytes: int
    """The sample the index is trained on, float32, in memory while it is."""
    table_bytes: int
    """The saved neighbors and their distances."""
    queries: int
    embed_hours: float
    add_hours: float
    query_hours: float


def plan_database(config: RetrievalConfig, database: Database, rates: Rates) -> DatabasePlan:
    """The plan of a data.yaml's `retrieval:` part for so much text. Raises ValueError where an encoder's width is
    missing."""
    lexical = config.embedder.type == "lexical"
    dimension = config.embedder.dimension if lexical else database.dimension
    if dimension is None:
        raise ValueError(
            f"database.dimension: expected the width of {config.embedder.name}'s vectors, for example 1024, got none"
        )
    chunks = round(database.tokens / config.chunk_length + database.documents / 2)
    assert database.stream_tokens is not None
    queries = round(database.stream_tokens / config.chunk_length)
    index = choose_index(chunks, dimension, config.index)
    id_bytes = 4 if chunks < 2**31 else 8
    embed = rates.embed or (LEXICAL_RATE if lexical else ENCODER_RATE)
    return DatabasePlan(
        chunks=chunks,
        dimension=dimension,
        token_bytes=round(database.tokens * (4 if database.vocab_size >= 65_500 else 2) + 20 * database.documents),
        embedding_bytes=2 * dimension * chunks,
        index=index,
        training_bytes=4 * dimension * index.training_vectors,
        table_bytes=queries * config.neighbors.num_saved * (id_bytes + 2),
        queries=queries,
        embed_hours=chunks / embed / 3600,
        add_hours=chunks / rates.add / 3600,
        query_hours=queries / rates.query / 3600,
    )
