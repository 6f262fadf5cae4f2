"""One million chunks from token store to neighbor table: time and memory of every stage, beside the bare library calls.

    python -m benchmarks.prepare_million [--store PREFIX... --tokenizer FOLDER] [--chunks 1000000] [--folder WORK]
    python -m benchmarks.prepare_million --stages search --folder WORK [--store PREFIX... --tokenizer FOLDER]
    python -m benchmarks.prepare_million --stages embed [--store PREFIX... --tokenizer FOLDER]

Without a store one is made: documents of sentences of Python's documentation, shuffled, an eighth of their words
replaced. Goals on two cores: 10 minutes and 2 GiB of memory above the index for all of it, every stage within 15 % of
the same calls without blocks, checksums and tables: for embedding, `embedder.embed` on the same chunks and `np.save` of
the vectors in float16, in interleaved rounds; for the index, Faiss's `add` of a tenth; for the neighbors, embedding and
searching one block (search), and an eighth of it by Faiss's own search. --stages leaves out what is not named.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from retrolit.retrieval import (
    ChunkDatabase,
    Index,
    IndexConfig,
    LexicalEmbedder,
    NeighborConfig,
    build_index,
    build_neighbors,
    choose_index,
    embed_database,
    neighbors,
)
from retrolit.retrieval.card import Card
from retrolit.retrieval.embeddings import BLOCK_CHUNKS
from retrolit.retrieval.index import load_faiss
from retrolit.retrieval.search_many import search_many
from retrolit.tokens import StoreWriter, Tokenizer, TokenStore, load_tokenizer, train_bpe
from retrolit.tokens.config import CorpusConfig
from retrolit.tokens.corpus import documents, open_corpus

M = 64
SEARCHED = neighbors.BLOCK_CHUNKS
STAGES = ["embed", "index", "neighbors", "search"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, nargs="+", help="prefixes of token stores")
    parser.add_argument("--tokenizer", type=Path, help="their tokenizer")
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the work goes; run again, it goes on there")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--rounds", type=int, default=3, help="of embedding")
    options = parser.parse_args()
    print(describe("faiss-cpu", "numpy"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.store is None:
            tokenizer = make_store(folder / "store", options.chunks)
            stores = [TokenStore(folder / "store")]
        else:
            tokenizer, stores = load_tokenizer(options.tokenizer), [TokenStore(prefix) for prefix in options.store]
        database = ChunkDatabase(stores, M)
        print(f"{len(database):,} chunks of {database.num_documents:,} documents")
        print(f"{'stage':20} {'wall s':>8} {'CPU s':>8} {'peak GiB':>9}")
        with stage("fit"):
            embedder = LexicalEmbedder.fit(database, tokenizer)
        if "embed" in options.stages:
            embed_rounds(database, embedder, folder, options.rounds)
        if set(options.stages) - {"embed"}:
            index_and_neighbors(database, embedder, folder, options.stages)


def embed_rounds(database: ChunkDatabase, embedder: LexicalEmbedder, folder: Path, rounds: int) -> None:
    """The stage, beside embedding alone, and beside embedding and saving."""
    ratios: dict[str, list[tuple[float, float]]] = {"embed": [], "embed, np.save": []}
    for number in range(rounds):
        shutil.rmtree(folder / "embeddings", ignore_errors=True)
        with stage("embed") as ours:
            embed_database(database, embedder, folder / "embeddings")
        for name, found in ratios.items():
            with stage(f"{name}, bare") as bare:
                for start in range(0, len(database), BLOCK_CHUNKS):
                    ids = np.arange(start, min(start + BLOCK_CHUNKS, len(database)))
                    vectors = embedder.embed(*database.tokens(ids))
                    if "save" in name:
                        np.save(folder / f"bare-{number}-{start}.npy", vectors.astype(np.float16))
            found.append((ours.wall / bare.wall, ours.cpu / bare.cpu))
            for path in folder.glob("bare-*.npy"):
                path.unlink()
    for name, found in ratios.items():
        wall, cpu = (statistics.median(one) for one in zip(*found, strict=True))
        print(f"embed: {wall:.2f} of the time by the clock, {cpu:.2f} of the CPU time of {name}")


def index_and_neighbors(database: ChunkDatabase, embedder: LexicalEmbedder, folder: Path, stages: list[str]) -> None:
    """The index, and the neighbors of all stores; then the bare calls on a part."""
    embeddings = embed_database(database, embedder, folder / "embeddings")
    assert embeddings is not None
    print(choose_index(len(embeddings), embeddings.dimension))
    with stage("index") as indexing:
        index = build_index(embeddings, IndexConfig(), folder / "index")
    assert index is not None
    print(Card.read(folder / "index"))
    tenth = np.arange(len(database) // 10)
    if "index" in stages:
        faiss = load_faiss()
        rows = embeddings.rows(tenth)
        trained = faiss.read_index(str(folder / "index" / "trained.faiss"))
        with stage("add, bare") as bare:
            trained.add(rows)
        print(f"index: {indexing.cpu / (10 * bare.cpu):.2f} of Faiss's add alone, training and measuring included")
    seconds: dict[str, float] = {}
    if "neighbors" in stages:
        total = 0
        with stage("neighbors") as searching:
            for number, store in enumerate(database.stores):
                target = folder / f"neighbors-{number}"
                table = build_neighbors(store, database, index, embedder, config=NeighborConfig(), folder=target)
                assert table is not None
                total += len(table)
                print({name: count for name, count in table.manifest.sizes.items() if name != "dtype"})
        seconds["neighbors"] = searching.cpu / total
    if "search" in stages:
        for name, search, number in (
            ("search", search_many, SEARCHED),
            ("Faiss's search", Index.search, SEARCHED // 8),
        ):
            with stage(name) as bare:
                parts = (database.tokens(ids) for ids in np.array_split(np.arange(number), 8))
                queries = np.concatenate([embedder.embed(*part) for part in parts])
                search(index, queries, NeighborConfig().num_searched)
            seconds[name] = bare.cpu / number
    for name, each in seconds.items():
        print(f"{name}: {1e3 * each:.2f} CPU ms a chunk")


class Stage:
    """Seconds of a finished stage, by the clock and of CPU."""

    wall = cpu = 0.0


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Prints time and the most anonymous memory (not that of mapped files) while it runs."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    measured = Stage()
    wall, cpu = time.perf_counter(), time.process_time()
    yield measured
    measured.wall, measured.cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set()
    watcher.join()
    print(f"{name:20} {measured.wall:8.1f} {measured.cpu:8.1f} {peak[0]:9.2f}", flush=True)


def anonymous_memory() -> float:
    """GiB of this process that no file stands behind."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**20


def make_store(prefix: Path, num_chunks: int) -> Tokenizer:
    """Writes a store of about so many chunks in documents of 5 to 200 of them, and returns its tokenizer."""
    corpus = CorpusConfig("python-docs")
    texts = [document.text for document in documents(open_corpus(corpus), corpus, Counter())]
    tokenizer = train_bpe(texts, 8192)
    sentences = [np.array(ids) for ids in tokenizer.encode_batch(texts) if len(ids) > 8]
    everything = np.concatenate(sentences)
    generator = np.random.default_rng(0)
    with StoreWriter(prefix, tokenizer.vocab_size) as writer:
        chunks = 0
        while chunks < num_chunks:
            length = int(generator.integers(5, 200)) * M
            subject = generator.choice(len(sentences), 8)
            starts = generator.integers(0, 1 << 30, length // 32)
            parts = [sentences[subject[start % 8]] for start in starts.tolist()]
            text = np.concatenate([part[s % len(part) :][:32] for part, s in zip(parts, starts.tolist(), strict=True)])
            other = generator.random(len(text)) < 0.125
            text[other] = generator.choice(everything, int(other.sum()))
            ids = np.append(text, tokenizer.eod_id)
            writer.add(ids, np.array([len(ids)]), [f"document {chunks}"])
            chunks += -(-len(text) // M)
    return tokenizer


if __name__ == "__main__":
    main()
