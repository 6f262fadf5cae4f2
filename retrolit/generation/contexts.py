"""Passages for a question: what a retriever finds for its text, to be written into the prompt (RAG)."""

from __future__ import annotations

from retrolit.generation.retrieval import Retrieved
from retrolit.retrieval import ExcludingRetriever, LiveRetriever


def retrieve_contexts(
    retriever: LiveRetriever | ExcludingRetriever, question: str, num_contexts: int
) -> list[Retrieved]:
    """The nearest chunks to a question, each with its continuation, the best first."""
    found = retriever.retrieve_text([question], num_contexts)
    live = retriever.retriever if isinstance(retriever, ExcludingRetriever) else retriever
    assert isinstance(live, LiveRetriever)
    contexts = []
    for id, distance, tokens, mask in zip(
        found.ids[0].tolist(), found.distances[0].tolist(), found.tokens[0], found.mask[0], strict=True
    ):
        if id >= 0:
            text = live.tokenizer.decode(tokens[mask].tolist())
            contexts.append(Retrieved(id, distance, retriever.source(id), text))
    return contexts
