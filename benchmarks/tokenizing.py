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
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
        ways = {
            "encode_batch_fast": lambda number: alone.encode_batch_fast(texts),
            "the same, ids taken out": lambda number: [one.ids for one in alone.encode_batch_fast(texts)],
            "to the store": lambda number: to_the_store(corpus, Path(folder), number),
        }
        taken = [{name: timed(way, number) for name, way in ways.items()} for number in range(options.rounds)]
    print(describe("tokenizers"))
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, medians of {options.rounds} rounds; in brackets the speed")
    print("relative to encode_batch_fast alone, by the clock and by CPU time")
    medians = {name: np.median([round_[name] for round_ in taken], axis=0) for name in ways}
    for name, (seconds, cpu) in medians.items():
        baseline, cpu_baseline = medians["encode_batch_fast"]
        print(
            f"{name:24} {megabytes / seconds:6.2f} MB/s [{baseline / seconds:4.2f}]   "
            f"{megabytes / cpu:6.2f} MB per CPU second [{cpu_baseline / cpu:4.2f}]"
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


def timed(way: Callable[[int], Any], number: int) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds of this process and its children."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    way(number)
    return time.perf_counter() - start, sum(os.times()[:4]) - before


if __name__ == "__main__":
    main()
