"""What batching brings to `retrolit evaluate`: 64 short questions, one at a time and together.

    OMP_NUM_THREADS=2 python -m benchmarks.evaluate_batch [--rounds 3]

A GPT-2 of 12 layers, width 256 and 8192 tokens, random weights, float32, greedy; questions of 8 to 24 tokens, answers
of 16. The rounds of all batch sizes are interleaved and medians compared. The goal is 3 times batch 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.generation import VOCABULARY, NumberTokenizer
from benchmarks.machine import describe
from retrolit.evaluation.task import Task
from retrolit.evaluation.task_run import Asking, Writer, run_task
from retrolit.generation import Generator
from retrolit.models import GPT, GPTConfig
from retrolit.tokens.chat_template import load_chat_template

QUESTIONS, NEW, GOAL = 64, 16, 3.0
BATCHES = (1, 16, 64)
# Nothing but the question is written: the tokenizer knows numbers alone.
TEMPLATE = """\
system: "{content}"
default_system: ""
context: "{title}{text}"
between_contexts: ""
contexts: "{contexts}"
begin: ""
user: "{content}"
reply: "{content}"
turn_end: ""
next: ""
end: "{eod}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each batch size is timed")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=VOCABULARY, hidden_size=256, num_layers=12, num_attention_heads=4, max_position_embeddings=512
    )
    generator = Generator(GPT(config).eval(), NumberTokenizer())
    seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "numbers.yaml").write_text(TEMPLATE)
        with open(folder / "questions.jsonl", "w", encoding="utf-8") as file:
            for number in range(QUESTIONS):
                words = torch.randint(VOCABULARY, (8 + number % 17,)).tolist()
                question = " ".join(map(str, words))
                file.write(json.dumps({"id": str(number), "question": question, "answers": ["0"]}) + "\n")
        task = Task("numbers", "Numbers", "answers")
        template = load_chat_template(folder / "numbers.yaml")
        for turn in range(rounds + 1):  # the first one warms up
            for batch in BATCHES:
                asking = Asking(template, max_new_tokens=NEW, batch_size=batch)
                start = time.perf_counter()
                run_task(
                    task, folder / "questions.jsonl", folder / f"{turn}-{batch}", asking, Writer(lambda: generator)
                )
                if turn:
                    seconds[batch].append(time.perf_counter() - start)
    print(describe())
    print(
        f"{QUESTIONS} questions of 8 to 24 tokens, answers of {NEW}, {torch.get_num_threads()} threads, {rounds} rounds"
    )
    medians = {batch: statistics.median(values) for batch, values in seconds.items()}
    for batch, median in medians.items():
        told = f"{QUESTIONS / median:7.1f} questions/s  {medians[1] / median:5.2f} times batch 1"
        print(f"  batch {batch:3} {told}" + ("" if batch == 1 else f" (goal: at least {GOAL:.0f})"))


if __name__ == "__main__":
    main()
