"""Tokens in, neighbors out: the chunk database, embedders, index, neighbor tables and retrievers."""

from __future__ import annotations

from retrolit.retrieval.chunks import ChunkDatabase, Spans
from retrolit.retrieval.embedder import Embedder, load_embedder
from retrolit.retrieval.lexical import LexicalEmbedder

__all__ = ["ChunkDatabase", "Embedder", "LexicalEmbedder", "Spans", "load_embedder"]
