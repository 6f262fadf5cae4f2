"""One task from its file to its scores: ask, write down, go on where it was cut off, score when all is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retrolit.evaluation.found import found_scores, texts_read
from retrolit.evaluation.predictions import RESULTS, SCORES, PredictionFolder, to_line
from retrolit.evaluation.task import BASE, Task
from retrolit.evaluation.task_files import Example, read_examples
from retrolit.generation import Generation, Generator, GivenNeighbors, SamplingConfig
from retrolit.retrieval import LiveRetriever
from retrolit.storage import Share, atomic_write, sha256_file, write_json
from retrolit.tokens import Tokenizer
from retrolit.tokens.chat_template import ChatTemplate
from retrolit.tokens.conversation import Context

ContextsFrom = Literal["given", "retrieved", "none"]


@dataclass
class Asking:
    """How a model is asked, whatever the task."""

    template: ChatTemplate
    """How a conversation is written."""

    contexts: ContextsFrom = "given"
    """Those that came with the data, passages retrieved for the question, or none."""

    num_contexts: int | None = None
    """How many of them; as the task has it when not given."""

    max_new_tokens: int = 256
    """The most tokens of an answer, as in the paper; half of the model's length where that is less."""

    encoder_contexts: int = 0
    """How many contexts the encoder of a Retro reads beside the prompt, in place of retrieved neighbors; 2 for the
    paper's 48B, none otherwise."""

    whole_prompt: bool = False
    """The encoder reads them beside the whole prompt, as the paper's, rather than chunk by chunk."""

    gate: float = 1.0
    """Scales what they add."""

    limit: int | None = None
    """Ask only so many examples of a task, drawn by a hash of their ids; all when not given."""

    batch_size: int = 16
    """How many are asked together."""

    def __post_init__(self) -> None:
        for name in ("num_contexts", "max_new_tokens", "limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.encoder_contexts < 0:
            raise ValueError(f"encoder_contexts: expected at least 0, got {self.encoder_contexts}")
        if self.whole_prompt and not self.encoder_contexts:
            raise ValueError("whole_prompt: expected encoder_contexts, how many the encoder reads beside it, got none")


@dataclass
class Writer:
    """Who answers. `open` is called only when something is left to ask."""

    open: Callable[[], Generator]
    """The model, with its retriever for what it reads while it writes."""

    settings: dict[str, Any] = field(default_factory=dict)
    """All of the model that decides what it writes, fingerprints and options, in JSON's types."""

    passages: Callable[[], LiveRetriever] | None = None
    """Where contexts are retrieved from."""


@dataclass
class _Prompt:
    """One example as the model is asked it."""

    example: Example
    ids: list[int]

    sources: list[str]
    """Where its contexts are from."""

    contexts: str
    """What they say, those that the encoder reads among them."""

    beside: list[list[int]]
    """The ids of those."""


def run_task(
    task: Task, path: Path, folder: Path, asking: Asking, writer: Writer,
    tell: Callable[[str], None] = lambda line: None, share: Share | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """What results.json of the task holds; None where other processes still write their part.

    Args:
        task: What is asked and scored.
        path: The task's file.
        folder: Where predictions and results go; what is there already is not asked again.
        asking: How.
        writer: Who answers.
        tell: Gets lines on the progress.
        share: This process's part of the examples; all of them when not given.

    Raises:
        ValueError: the file or the settings cannot be used, an example does not fit into the model, or the folder was
            begun with other settings.
    """
    share = share or Share()
    everything = read_examples(path, asks=not task.question)
    chosen = choose(everything, asking.limit)
    without = [example.id for example in chosen if not any(example.answers)]
    if without and not task.unanswerable:
        raise ValueError(f"{path}: expected a reference for every question of {task.name}, got none for {without[0]}")
    settings = {
        "task": task.settings, "data": sha256_file(path), "template": asking.template.fingerprint,
        "contexts": asking.contexts, "num_contexts": asking.num_contexts or task.num_contexts,
        "max_new_tokens": asking.max_new_tokens, **writer.settings,
    }  # fmt: skip
    if asking.encoder_contexts:
        settings |= {
            "encoder_contexts": asking.encoder_contexts, "whole_prompt": asking.whole_prompt, "gate": asking.gate
        }  # fmt: skip
    predictions = PredictionFolder(folder, settings, share.rank)
    done = predictions.read()
    missing = [example for example in chosen[share.rank :: share.world] if example.id not in done]
    if missing:
        written = sum(example.id in done for example in chosen)
        for lines in _ask(task, missing, asking, writer):
            predictions.append(lines)
            written += len(lines)
            tell(f"{task.title}: {written} of {len(chosen)}")
        done = predictions.read()
    if any(example.id not in done for example in chosen):
        return None
    return _score(task, path, folder, chosen, len(everything), done, settings)


def choose(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """All of them, or those `limit` whose ids have the smallest hashes, in the file's order.

    So they are from all over the file, and a larger limit adds to them.
    """
    if limit is None or limit >= len(examples):
        return list(examples)
    kept = {example.id for example in sorted(examples, key=_hash)[:limit]}
    return [example for example in examples if example.id in kept]


def _hash(example: Example) -> bytes:
    return hashlib.blake2b(example.id.encode(errors="replace"), digest_size=8).digest()


def _ask(task: Task, examples: Sequence[Example], asking: Asking, writer: Writer) -> Iterator[list[dict[str, Any]]]:
    """The lines of one batch after the other, the longest prompts first: what does not fit shows at once."""
    generator = writer.open()
    tokenizer, length = generator.tokenizer, generator.decoder.config.max_position_embeddings
    new = min(asking.max_new_tokens, length // 2)
    # A model that was not tuned to answer goes on writing; its answer is read up to the first period.
    stop = ["."] if asking.template.name == BASE and task.answer_form == "short" else ["\nUser:"]
    ends = asking.template.reply_end_ids(tokenizer)
    sampling = SamplingConfig(max_new_tokens=new, temperature=0, stop=stop, stop_tokens=ends)
    passages = writer.passages() if asking.contexts == "retrieved" and writer.passages is not None else None
    prompts = [_prompt(task, example, asking, tokenizer, length - new, passages) for example in examples]
    prompts.sort(key=lambda prompt: len(prompt.ids), reverse=True)
    for start in range(0, len(prompts), asking.batch_size):
        batch = prompts[start : start + asking.batch_size]
        given = GivenNeighbors([prompt.beside for prompt in batch], asking.gate, asking.whole_prompt)
        generations = generator.generate(
            [prompt.ids for prompt in batch], sampling, asking.batch_size,
            given=given if asking.encoder_contexts else None,
        )  # fmt: skip
        yield [
            {
                "id": prompt.example.id, "prompt": tokenizer.decode(prompt.ids), "text": made.text,
                "finish_reason": made.finish_reason, "contexts": prompt.sources, "neighbors": _neighbors(made),
                "read": texts_read(prompt.contexts, made, len(prompt.ids)),
            }
            for prompt, made in zip(batch, generations, strict=True)
        ]  # fmt: skip


def _prompt(
    task: Task, example: Example, asking: Asking, tokenizer: Tokenizer, max_length: int, passages: LiveRetriever | None
) -> _Prompt:
    num_contexts, num_beside = asking.num_contexts or task.num_contexts, asking.encoder_contexts
    contexts, sources = _contexts(example, asking.contexts, max(num_contexts, num_beside), passages)
    conversation = task.conversation(example, contexts[:num_contexts], asking.template)
    try:
        ids = asking.template.prompt(conversation, tokenizer, max_length, num_contexts)
    except ValueError as error:
        raise ValueError(f"{task.name}: {example.id}: {error}") from error
    beside = [tokenizer.encode(context.as_neighbor) for context in contexts[:num_beside]]
    return _Prompt(example, ids, sources, " ".join(context.text for context in contexts), beside)


def _contexts(
    example: Example, contexts: ContextsFrom, count: int, passages: LiveRetriever | None
) -> tuple[Sequence[Context], list[str]]:
    """The contexts of an example, and where each is from."""
    if contexts == "given":
        return example.contexts[:count], [context.title for context in example.contexts[:count]]
    if passages is None:
        return (), []
    found = passages.retrieve_text([example.question], count)
    some = [rank for rank, id in enumerate(found.ids[0].tolist()) if id >= 0]
    texts = [passages.tokenizer.decode(found.tokens[0, rank][found.mask[0, rank]].tolist()) for rank in some]
    return [Context("", text) for text in texts], [passages.source(int(found.ids[0, rank])) for rank in some]


def _neighbors(made: Generation) -> list[dict[str, Any]]:
    """What was retrieved while it was written, by chunk, without the texts."""
    return [
        {"start": chunk.start, "end": chunk.end, "sources": [neighbor.source for neighbor in chunk.neighbors]}
        for chunk in made.neighbors
    ]


def _score(
    task: Task, path: Path, folder: Path, chosen: Sequence[Example], total: int, done: dict[str, dict[str, Any]],
    settings: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    predictions = [task.prediction(done[example.id]["text"]) for example in chosen]
    answers = [example.answers for example in chosen]
    scores = [task.score_one(said, own) for said, own in zip(predictions, answers, strict=True)]
    with atomic_write(folder / SCORES) as file:
        for example, said, own in zip(chosen, predictions, scores, strict=True):
            question = example.question or task.question
            file.write(
                to_line({"id": example.id, "question": question, "prediction": said, "answers": example.answers} | own)
            )
    texts = [done[example.id]["read"] for example in chosen if "read" in done[example.id]]
    found = found_scores(texts, answers) if len(texts) == len(chosen) else {}  # earlier versions did not write them
    results = {
        "task": task.name, "title": task.title, "file": path.name, "examples": len(chosen), "of": total,
        "scores": task.score_all(scores, answers) | found, "published": task.published, "settings": settings,
    }  # fmt: skip
    write_json(folder / RESULTS, results)
    return results
