"""Look at neighbors: what was found for a chunk, how near it is, where it is from, and which words are shared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrolit.reports.neighbor_page import Found, Shown, pieces, words, write_page

if TYPE_CHECKING:
    from rich.text import Text

    from retrolit.retrieval import LiveRetriever, NeighborTable
    from retrolit.retrieval.stream_chunks import StreamChunks
    from retrolit.tokens import TokenStore


def neighbors(
    path: str,
    *,
    text: str | None = None,
    chunks: list[int] | None = None,
    split: str = "train",
    number: int = 3,
    k: int = 2,
    seed: int = 0,
    html: str | None = None,
) -> None:
    """Show chunks with their neighbors: distance, source, shared words in colour.

    In the query, words that a neighbor has too are coloured; in a neighbor's continuation, words that come next in the
    query's own text. Those are what a model can learn to copy.

    Args:
        path: a prepared folder, or an index folder in it.
        text: retrieve for this text, live.
        chunks: these chunks of the split's token stream; random ones if not given.
        split: train, validation or test.
        number: how many random chunks.
        k: neighbors of each.
        seed: of the random choice.
        html: write a self-contained page to this file instead of the terminal.
    """
    from retrolit.retrieval import LiveRetriever
    from retrolit.retrieval.stream_chunks import StreamChunks

    if k < 1 or number < 1:
        raise ValueError(f"k, number: expected at least 1, got {k} and {number}")
    retriever = LiveRetriever(path)
    if text is not None:
        shown = [_live(retriever, text, k)]
    else:
        shown = []
        for store, table in _tables(retriever, split):
            stream = StreamChunks(store, table.chunk_length)
            wanted = chunks if chunks is not None else _drawn(len(stream), number, seed)
            shown += [_prepared(retriever, store, stream, table, chunk=chunk, k=k) for chunk in wanted]
    if html is not None:
        write_page(Path(html), f"Neighbors in {path}", shown)
        print(html)
        return
    _print(shown)


def _live(retriever: LiveRetriever, text: str, k: int) -> Shown:
    found = retriever.retrieve_text([text], k)
    return Shown("your text", text, "", _found(retriever, found.ids[0], found.distances[0]))


def _drawn(count: int, number: int, seed: int) -> list[int]:
    """At most `number` of the numbers below `count`, drawn at random, in order."""
    return sorted(np.random.default_rng(seed).choice(count, min(number, count), replace=False).tolist())


def _prepared(
    retriever: LiveRetriever, store: TokenStore, stream: StreamChunks, table: NeighborTable, *, chunk: int, k: int
) -> Shown:
    """A chunk of a store's stream with its saved neighbors."""
    if not 0 <= chunk < len(stream):
        raise ValueError(f"chunks: expected 0 to {len(stream) - 1} for {store.prefix}, got {chunk}")
    texts = [_chunk_text(retriever, stream, number) for number in (chunk, chunk + 1)]
    first, last = (int(documents[0]) for documents in stream.documents(chunk, chunk + 1))
    source = store.source(first) + (f" to {store.source(last)}" if last > first else "")
    title = f"{store.prefix.parent.name}/{store.prefix.name}, chunk {chunk}: {source}"
    return Shown(title, texts[0], texts[1], _found(retriever, table[chunk][:k], table.distances(chunk)[:k]))


def _tables(retriever: LiveRetriever, split: str) -> list[tuple[TokenStore, NeighborTable]]:
    """The split's stores with the tables that were made with the retriever's index."""
    from retrolit.retrieval import NeighborTable
    from retrolit.tokens import TokenStore

    retrieval = retriever.folder.parent
    tables = [NeighborTable(path.parent) for path in sorted(retrieval.glob(f"neighbors/*-{split}-*/manifest.json"))]
    stores = [TokenStore(path.with_suffix("")) for path in sorted(retrieval.parent.glob(f"tokens/*/{split}.idx"))]
    by_fingerprint = {store.fingerprint: store for store in stores}
    found = [
        (by_fingerprint[table.manifest.inputs["store"]], table)
        for table in tables
        if table.manifest.inputs["index"] == retriever.index.fingerprint
        and table.manifest.inputs["store"] in by_fingerprint
    ]
    if not found:
        raise FileNotFoundError(
            f"{retrieval}: expected neighbor tables of the {split} split, got none; make them with: retrolit prepare "
            f"-c data.yaml, or give a --text"
        )
    return found


def _chunk_text(retriever: LiveRetriever, stream: StreamChunks, chunk: int) -> str:
    if chunk >= len(stream):
        return ""
    tokens, lengths = stream.tokens(chunk, chunk + 1)
    return retriever.tokenizer.decode(tokens[0, : lengths[0]].tolist())


def _found(retriever: LiveRetriever, ids: np.ndarray, distances: np.ndarray) -> list[Found]:
    """The neighbors of one chunk: texts of the chunk and of its continuation."""
    there = ids[ids >= 0]
    tokens, mask = retriever.database.neighbor_tokens(there, retriever.num_retrieved_chunks)
    length = retriever.chunk_length

    def decode(row: int, columns: slice) -> str:
        return retriever.tokenizer.decode(tokens[row, columns][mask[row, columns]].tolist())

    return [
        Found(
            float(distances[row]),
            f"chunk {id}, {retriever.source(int(id))}",
            decode(row, slice(0, length)),
            decode(row, slice(length, None)),
        )
        for row, id in enumerate(there.tolist())
    ]


def _print(shown: list[Shown]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for item in shown:
        in_neighbors = set().union(*(words(found.chunk) for found in item.found))
        console.print(f"\n{item.title}", style="bold", markup=False)
        console.print(_coloured(item.query, in_neighbors, "green"))
        if item.follows:
            console.print(f"then: {item.follows}", style="dim", markup=False)
        for rank, found in enumerate(item.found, 1):
            console.print(f"\n  {rank}. distance {found.distance:.3f}, {found.source}", style="cyan", markup=False)
            console.print(_coloured(found.chunk, words(item.query), "green"))
            console.print(_coloured(f"then: {found.continuation}", words(item.follows), "yellow"))
        if not item.found:
            console.print("  no neighbors", style="cyan")
    console.print()


def _coloured(text: str, marked: set[str], style: str) -> Text:
    from rich.text import Text

    coloured = Text()
    for piece, is_marked in pieces(text, marked):
        coloured.append(piece, f"bold {style}" if is_marked else "")
    return coloured
