"""Continue prompts with a model, from the command line."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from retrolit.checkpoint import load_model
from retrolit.generation import Generation, Generator, SamplingConfig
from retrolit.models import Retro
from retrolit.storage import atomic_write
from retrolit.tokens import load_tokenizer


def generate(
    model: str,
    *,
    prompt: str | list[str] | None = None,
    file: str | None = None,
    output: str | None = None,
    tokenizer: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 16,
    **sampling: Any,
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
        tokenizer: the tokenizer's folder or file; the model folder's own when not given.
        device: where the model runs; auto takes a GPU where there is one.
        dtype: what the model computes in.
        batch_size: how many prompts are continued together.
    """
    settings = SamplingConfig(**sampling)
    prompts = _prompts(prompt, file)
    if tokenizer is None and Path(model).is_file():
        raise ValueError(f"{model}: a checkpoint has no tokenizer; name the one it was trained with: --tokenizer PATH")
    network = load_model(model, device=_device(device), dtype=getattr(torch, dtype))
    if isinstance(network, Retro):
        network = network.to_gpt()  # there is nothing to retrieve from
    generator = Generator(network, load_tokenizer(tokenizer or model))
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"retrolit generate: {message}", file=sys.stderr)
        if output is None and len(prompts) == 1:
            _stream(generator, prompts[0], settings)
        else:
            _write_lines(generator, prompts, settings, batch_size, output)


def _stream(generator: Generator, prompt: str, sampling: SamplingConfig) -> None:
    for piece in generator.stream(prompt, sampling):
        print(piece, end="", flush=True)
    print()


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


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but torch finds no GPU here; retrolit doctor shows what it finds")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


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
