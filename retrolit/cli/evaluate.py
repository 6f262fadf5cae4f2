"""Ask a model the questions of the paper's tasks, score its answers, and show them beside the paper's numbers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from retrolit.checkpoint.model_folder import open_model
from retrolit.cli.load_generator import load_generator, open_writer
from retrolit.evaluation.predictions import RESULTS
from retrolit.evaluation.results_file import weights_fingerprint
from retrolit.evaluation.score_names import PUBLISHED, SOURCE, in_order, published_models, score_name
from retrolit.evaluation.task import find_file, load_task, task_names
from retrolit.evaluation.task_run import Asking, ContextsFrom, Writer, run_task
from retrolit.generation import Generator
from retrolit.models import RetroConfig
from retrolit.retrieval import LiveRetriever
from retrolit.retrieval.index import KIND
from retrolit.retrieval.retriever import find_index
from retrolit.storage import Manifest, Share, read_json, write_json
from retrolit.tokens import load_tokenizer
from retrolit.tokens.chat_template import load_chat_template


def evaluate(
    model: str,
    *,
    data: str,
    output: str,
    tasks: tuple[str, ...] | None = None,
    template: str = "instructretro",
    contexts: ContextsFrom = "given",
    num_contexts: int | None = None,
    encoder_contexts: int = 0,
    whole_prompt: bool = False,
    limit: int | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    tokenizer: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    retriever: str | None = None,
    gate: float = 1.0,
    num_neighbors: int | None = None,
    retrieval_stride: int | None = None,
    exclude: list[str] | None = None,
) -> None:
    """Ask a model the questions of the paper's tasks, and score its answers.

    Answers are greedy. Each task has a folder in --output with every prompt, what the model wrote, where its contexts
    and neighbors are from, and the scores; results.json beside them has all tasks. What is there already is not asked
    again: the same command goes on after an interruption, and a larger --limit adds to a smaller one. Started with
    torchrun or srun, the processes share the questions.

    Args:
        model: a model folder, or a training checkpoint (.ckpt) together with --tokenizer.
        data: the folder with the tasks' files, or the file of one task.
        output: the folder for predictions and results.
        tasks: names of tasks, or .yaml files of your own; all of the paper's whose files are there when not given.
        template: how a question is written: instructretro, base (for models not tuned to answer), special-tokens, a
            .yaml file, or a Hugging Face tokenizer's folder.
        contexts: passages in the prompt: given with the data, retrieved for the question by --retriever, or none.
        num_contexts: how many of them; as the task has it when not given.
        encoder_contexts: how many of them a Retro's encoder reads, beside the prompt and in place of neighbors; the
            paper's 48B reads 2.
        whole_prompt: the encoder reads them beside the whole prompt, as the paper's; otherwise beside each chunk, as a
            Retro tuned here with gate 1.
        limit: ask only so many questions of each task, drawn from all over its file.
        max_new_tokens: the most tokens of an answer; half of the model's length where that is less.
        batch_size: how many questions are asked together.
        tokenizer: the tokenizer's folder or file; the model folder's own when not given.
        device: where the model runs; auto takes a GPU where there is one.
        dtype: what the model computes in.
        retriever: an index folder, or a prepared folder: for what a Retro reads while it writes, and for --contexts
            retrieved.
        gate: scales what neighbors add to the text; with 0 a Retro's decoder writes alone.
        num_neighbors: neighbors of a chunk; as many as in training when not given.
        retrieval_stride: new tokens after which neighbors are sought again; a chunk's length when not given.
        exclude: leave out neighbors with this text in their source; may be repeated.
    """
    if contexts == "retrieved" and retriever is None:
        raise ValueError("contexts: to retrieve them expected an index, got none; name it with --retriever FOLDER")
    config, _ = open_model(Path(model))
    if encoder_contexts and (not isinstance(config, RetroConfig) or gate == 0):
        got = "gate 0" if isinstance(config, RetroConfig) else "a GPT"
        raise ValueError(f"encoder_contexts: expected a Retro and a gate that is not 0, got {got}; leave them out")
    reads = isinstance(config, RetroConfig) and retriever is not None and gate != 0 and not encoder_contexts

    @cache
    def open_generator() -> Generator:
        if encoder_contexts:
            alone = open_writer(model, tokenizer=tokenizer, device=device, dtype=dtype)
            return Generator(alone.model, alone.tokenizer)
        return load_generator(
            model, tokenizer, device, dtype, retriever if reads else None, gate=gate, num_neighbors=num_neighbors,
            retrieval_stride=retrieval_stride, exclude=exclude,
        )  # fmt: skip

    settings: dict[str, Any] = {
        "model": weights_fingerprint(model), "dtype": dtype, "tokenizer": load_tokenizer(tokenizer or model).fingerprint
    }  # fmt: skip
    if reads:
        settings |= {"gate": gate, "num_neighbors": num_neighbors, "retrieval_stride": retrieval_stride,
                     "exclude": exclude or []}  # fmt: skip
    if retriever is not None and (reads or contexts == "retrieved"):
        settings["index"] = Manifest.read(find_index(retriever), KIND).fingerprint
    writer = Writer(open_generator, settings, None if retriever is None else cache(lambda: LiveRetriever(retriever)))
    asking = Asking(
        load_chat_template(template), contexts=contexts, num_contexts=num_contexts, max_new_tokens=max_new_tokens,
        encoder_contexts=encoder_contexts, whole_prompt=whole_prompt, gate=gate, limit=limit, batch_size=batch_size,
    )  # fmt: skip
    share = Share.from_environment()
    complete = True
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"retrolit evaluate: {message}", file=sys.stderr)
        for name, path in _files(tasks, data).items():
            task = load_task(name)
            results = run_task(task, path, Path(output) / task.name, asking, writer, _tell, share)
            complete = complete and results is not None
    if not complete:
        print("retrolit evaluate: my part is done; the process that is last writes the results", file=sys.stderr)
        return
    paths = {path.parent.name: path for path in sorted(Path(output).glob(f"*/{RESULTS}"))}
    found = {name: read_json(paths[name]) for name in sorted(paths, key=_place)}
    write_json(Path(output) / RESULTS, {"model": model, "tasks": found})
    _show(found, Console())
    print(f"predictions, scores and {RESULTS} in {output}")


def _files(tasks: Sequence[str] | None, data: str) -> dict[str, Path]:
    """The file of each task. Of all the paper's tasks, those that have one; of tasks that were named, every one."""
    if tasks is not None:
        return {name: find_file(load_task(name), data) for name in tasks}
    found = {}
    for name in task_names():
        try:
            found[name] = find_file(load_task(name), data)
        except FileNotFoundError:
            continue
    if not found or Path(data).is_file():
        raise ValueError(f"tasks: expected the names of tasks for {data}, got none; they are {', '.join(task_names())}")
    return found


def _place(name: str) -> int:
    """Where a task stands in the paper's tables; others behind."""
    return task_names().index(name) if name in task_names() else len(task_names())


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _show(results: dict[str, Any], console: Console) -> None:
    """A row a score: this model's, and where there are any, the published ones of its main scores."""
    published = published_models(results.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=SOURCE if published else None)
    for header in ("task", "asked", "score", "this\nmodel", *(PUBLISHED[model] for model in published)):
        left = header in ("task", "score")
        table.add_column(header, justify="left" if left else "right", no_wrap=True)
    for result in results.values():
        for row, name in enumerate(in_order(result)):
            theirs = [str(result["published"].get(name, {}).get(model, "")) for model in published]
            head = (result["title"], f"{result['examples']:,}/{result['of']:,}") if row == 0 else ("", "")
            table.add_row(*head, score_name(name), f"{result['scores'][name]:.2f}", *theirs)
        table.add_section()
    console.print(table)
