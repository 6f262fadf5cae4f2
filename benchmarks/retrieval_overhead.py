"""What retrieval costs a Retro that retrieves while it writes: embedding and searching, beside all the rest.

    python -m benchmarks.retrieval_overhead [--chunks 1000000] [--rounds 5] [--folder WORK]

The model is that of benchmarks.peers.sizes with random weights; a prompt of 128 tokens is continued by 256, one text at
a time, in float32 with 2 threads, with the built-in lexical retriever over made-up documents (those of
benchmarks.prepare_million). The goal: retrieval itself takes less than 10 % of the time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.machine import describe
from benchmarks.peers import sizes
from benchmarks.peers.retrolit_models import RETRO
from benchmarks.prepare_million import make_store
from retrolit.generation import Generator, SamplingConfig
from retrolit.generation.retrieval import RetrievingReading
from retrolit.models import Retro
from retrolit.retrieval import ChunkDatabase, IndexConfig, LexicalEmbedder, LiveRetriever, build_index, embed_database
from retrolit.retrieval.prepare import write_retriever
from retrolit.tokens import TokenStore

GOAL = 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the index goes; one that is there is used")
    options = parser.parse_args()
    torch.set_num_threads(sizes.THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "index" / "retriever.json").exists():
            prepare(folder, options.chunks)
        print(describe("faiss-cpu", "numpy"))
        measure(LiveRetriever(folder / "index"), options.rounds)


def prepare(folder: Path, num_chunks: int) -> None:
    """Makes a token store of about so many chunks, and its index."""
    tokenizer = make_store(folder / "store", num_chunks)
    tokenizer.save(folder / "tokenizer")
    database = ChunkDatabase([TokenStore(folder / "store")], sizes.CHUNK)
    embedder = LexicalEmbedder.fit(database, tokenizer)
    embedder.save(folder / "embedder")
    embeddings = embed_database(database, embedder, folder / "embeddings")
    assert embeddings is not None
    build_index(embeddings, IndexConfig(), folder / "index")
    parts = {name: folder / name for name in ("tokenizer", "embedder", "embeddings")}
    write_retriever(folder / "index", parts, [folder / "store"], database, embedder)


class Clock:
    """Wall seconds spent in functions, by the name of what they do."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: object, function: str, name: str) -> None:
        """From now on `owner.function` is timed."""
        watched: Callable = getattr(owner, function)

        def timed(*arguments, **named):
            start = time.perf_counter()
            try:
                return watched(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - start

        setattr(owner, function, timed)


def measure(retriever: LiveRetriever, rounds: int) -> None:
    """Prints the time of a new token and its parts, medians of the rounds."""
    torch.manual_seed(0)
    model = Retro(RETRO).eval()
    generator = Generator(model, retriever.tokenizer, retriever)
    clock = Clock()
    clock.watch(retriever.embedder, "embed", "embed")
    clock.watch(retriever.index, "search", "search")
    clock.watch(retriever.database, "neighbor_tokens", "fetch")
    clock.watch(RetrievingReading, "seek", "retrieval")
    clock.watch(model.encoder, "forward", "encode")
    clock.watch(generator, "generate", "all")
    shares: dict[str, list[float]] = defaultdict(list)
    step = len(retriever.database) // (rounds + 1)
    for number in range(rounds + 1):  # the first one warms up
        tokens, _ = retriever.database.neighbor_tokens([number * step], sizes.PROMPT // sizes.CHUNK)
        prompt = retriever.tokenizer.decode(tokens[0].tolist())
        clock.seconds.clear()
        (written,) = generator.generate([prompt], SamplingConfig(sizes.NEW, top_k=50, seed=number))
        if number:
            spent = clock.seconds
            spent["rest of retrieval"] = spent["retrieval"] - spent["embed"] - spent["search"] - spent["fetch"]
            spent["decode"] = spent["all"] - spent["retrieval"] - spent["encode"]
            for name, seconds in spent.items():
                shares[name].append(seconds / len(written.tokens))
    index = retriever.index.manifest.settings
    print(f"{len(retriever.database):,} chunks, index {index['factory']}, nprobe {index['search']['nprobe']}")
    milliseconds = {name: 1000 * statistics.median(values) for name, values in shares.items()}
    for name in ("decode", "encode", "embed", "search", "fetch", "rest of retrieval", "all"):
        print(f"  {name:18} {milliseconds[name]:8.3f} ms a token  {milliseconds[name] / milliseconds['all']:6.1%}")
    share = statistics.median(r / a for r, a in zip(shares["retrieval"], shares["all"], strict=True))
    print(f"retrieval / all: {share:.1%} (goal: below {GOAL:.0%})")


if __name__ == "__main__":
    main()
