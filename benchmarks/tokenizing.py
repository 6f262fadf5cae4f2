"""Tokenizing a corpus to the token store, against the `tokenizers` library alone on the same text and cores.

    python -m benchmarks.tokenizing [CORPUS.jsonl] [--megabytes 60] [--rounds 5]

Ours reads .jsonl, tokenizes in one process a core, hashes, splits and writes the stores, forced to the disk. The
library's share of that is one call of `encode_batch_fast` with the texts in memory, which uses all cores by itself.
Goal: at least 0.9 of its speed. Both have the same byte-level BPE of 16,384 ids. Without a corpus the text is the
documentation of this Python, repeated in different orders.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import tokenizers

from benchmarks.machine import describe
from retrolit.tokens.bpe import train_bpe
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.corpus import documents, open_corpus
from retrolit.tokens.prepare import prepare_tokens
from retrolit.tokens.sample import sample_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", default="python-docs")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = read_texts(options.corpus, options.megabytes * 1_000_000)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        train_bpe(sample_texts(texts, 10_000_000), 16_384).save(Path(folder) / "tokenizer")
        alone = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer/tokenizer.json")
        seconds: dict[str, list[float]] = {"encode_batch_fast": [], "encode_batch_fast, ids": [], "to the store": []}
        for number in range(options.rounds):
            seconds["encode_batch_fast"].append(timed(lambda: alone.encode_batch_fast(texts)))
            seconds["encode_batch_fast, ids"].append(timed(lambda: [e.ids for e in alone.encode_batch_fast(texts)]))
            seconds["to the store"].append(timed(lambda n=number: to_the_store(corpus, Path(folder), n)))
    print(describe("tokenizers"))
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, {options.rounds} rounds, medians")
    baseline = statistics.median(seconds["encode_batch_fast"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:24} {median:7.2f} s {megabytes / median:7.2f} MB/s   {baseline / median:5.2f} of encode_batch_fast"
        )


def read_texts(source: str, characters: int) -> list[str]:
    """Documents of the corpus, in a new order each time around, until there are so many characters."""
    config = CorpusConfig(source)
    once = [document.text for document in documents(open_corpus(config), config, Counter())]
    chance = random.Random(0)
    texts: list[str] = []
    count = 0
    while True:
        for text in chance.sample(once, len(once)):
            texts.append(text)
            count += len(text)
            if count >= characters:
                return texts


def to_the_store(corpus: Path, folder: Path, number: int) -> None:
    tokenizer = TokenizerConfig("file", path=str(folder / "tokenizer"))
    prepare_tokens(TokensConfig({"corpus": CorpusConfig(str(corpus))}, tokenizer), folder / f"prepared-{number}")


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
