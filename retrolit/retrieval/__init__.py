"""Tokens in, neighbors out: the chunk database, embedders, index, neighbor tables and retrievers."""

from __future__ import annotations

from retrolit.retrieval.chunks import ChunkDatabase, Spans
from retrolit.retrieval.embedder import Embedder, load_embedder
from retrolit.retrieval.embeddings import Embeddings, embed_database
from retrolit.retrieval.excluding import ExcludingRetriever
from retrolit.retrieval.index import Index
from retrolit.retrieval.index_build import build_index
from retrolit.retrieval.index_plan import IndexConfig, IndexPlan, choose_index
from retrolit.retrieval.lexical import LexicalEmbedder
from retrolit.retrieval.neighbors import NeighborConfig, NeighborTable, build_neighbors
from retrolit.retrieval.prepare import EmbedderConfig, PreparedRetrieval, RetrievalConfig, prepare_retrieval
from retrolit.retrieval.retriever import DictionaryRetriever, LiveRetriever, Neighbors, PreparedRetriever, Retriever

__all__ = [
    "ChunkDatabase",
    "DictionaryRetriever",
    "Embedder",
    "EmbedderConfig",
    "Embeddings",
    "ExcludingRetriever",
    "Index",
    "IndexConfig",
    "IndexPlan",
    "LexicalEmbedder",
    "LiveRetriever",
    "NeighborConfig",
    "NeighborTable",
    "Neighbors",
    "PreparedRetrieval",
    "PreparedRetriever",
    "RetrievalConfig",
    "Retriever",
    "Spans",
    "build_index",
    "build_neighbors",
    "choose_index",
    "embed_database",
    "load_embedder",
    "prepare_retrieval",
]
