"""Continue prompts with a model, from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from retrolit.cli.load_generator import open_writer, warnings_in_lines
from retrolit.cli.show_generation import show_pieces, show_retrieved
from retrolit.generation import Generation, Generator, SamplingConfig
from retrolit.storage import atomic_write


def generate(
    model: str,
    *,
    prompt: str | list[str] | None = None,
    file: str | None = None,
    output: str | None = None,
    batch_size: int = 16,
    show_neighbors: bool = False,
    **options: Any,
) -> None:
    """Continue prompts with a model.

    The continuation of one prompt is printed while it is made. Those of several prompts, and whatever goes to --output,
    are JSON lines with the prompt, the text, its tokens and the reason why it ended: stop (a stop text came), end (the
    model ended the document) or length. Prompts come from --prompt or --file, or else from standard input, one a line.

    Args:
        model: a model folder, or a training checkpoint (.ckpt) together with --tokenizer.
        prompt: the text to continue; may be repeated. An empty one begins a new document.
        file: prompts to continue: a text file with one a line, or .jsonl with strings or objects with "prompt".
        output: a .jsonl file for the results, written when all are done.
        batch_size: how many prompts are continued together.
        show_neighbors: show what was retrieved for each chunk behind the text; JSON lines have it without being asked.
    """
    prompts = _prompts(prompt, file)
    with warnings_in_lines("generate"):
        writer = open_writer(model, **options)
        generator = writer.generator()
        if output is None and len(prompts) == 1:
            generation = show_pieces(generator.stream(prompts[0], writer.sampling))
            if show_neighbors:
                show_retrieved(generation)
        else:
            _write_lines(generator, prompts, writer.sampling, batch_size, output)


def _write_lines(
    generator: Generator, prompts: list[str], sampling: SamplingConfig, batch_size: int, output: str | None
) -> None:
    # The file is opened first: where nothing can be written, that is said before the work.
    with atomic_write(output) if output is not None else nullcontext(sys.stdout.buffer) as lines:
        for prompt, generation in zip(prompts, generator.generate(prompts, sampling, batch_size), strict=True):
            lines.write(_line(prompt, generation))
    if output is not None:
        print(f"{len(prompts)} continuations in {output}")


def _line(prompt: str, generation: Generation) -> bytes:
    return json.dumps({"prompt": prompt, **asdict(generation)}, ensure_ascii=False).encode() + b"\n"


def _prompts(prompt: str | list[str] | None, file: str | None) -> list[str]:
    if prompt is not None and file is not None:
        raise ValueError("expected --prompt or --file, got both; name one of them")
    if prompt is not None:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not all(isinstance(text, str) for text in prompts):
            raise ValueError(f"prompt: expected texts, got {prompts}; put quotation marks around each")
        return prompts
    if file is not None:
        with open(file, "rb") as lines:
            prompts = _read(lines, file)
    elif sys.stdin.isatty():
        raise ValueError("no prompt: give --prompt TEXT or --file PATH, or pipe prompts in, one a line")
    else:
        prompts = _read(sys.stdin.buffer, "standard input")
    if not prompts:
        raise ValueError(f"{file or 'standard input'}: expected at least one prompt, got none")
    return prompts


def _read(lines: Iterable[bytes], name: str) -> list[str]:
    """A prompt a line; empty lines are left out."""
    read = _prompt_in_json if name.endswith(".jsonl") else str
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode().rstrip("\r\n")
            if text:
                prompts.append(read(text))
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}:{number}: expected UTF-8, got other bytes ({error.reason})") from error
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f'{name}:{number}: expected a JSON string or an object with a text "prompt"') from error
    return prompts


def _prompt_in_json(line: str) -> str:
    """The line's prompt; raises JSONDecodeError, KeyError or TypeError where there is none."""
    record = json.loads(line)
    prompt = record if isinstance(record, str) else record["prompt"]
    if not isinstance(prompt, str):
        raise TypeError(prompt)
    return prompt
