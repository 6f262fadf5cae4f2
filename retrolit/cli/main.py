"""One console script: looks at the verb, and imports only what that verb needs."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

from retrolit import __version__

# verb -> (module, one line for the help). A module has a function named like the verb, or COMMANDS, its sub-verbs.
TRAINER_VERBS = {
    "fit": "train a model; goes on where an interrupted run stopped",
    "validate": "one pass over the validation split",
    "test": "one pass over the test split: loss, perplexity, bits per byte",
    "predict": "write the loss of every token",
}
TOOL_VERBS = {
    "run": "all stages of a recipe folder, one after another: retrolit run quickstart",
    "prepare": "text to tokens, and for Retro to an index and neighbors, as a data.yaml says",
    "questions": "ask about the documents of a data.yaml, for tuning and evaluation",
    "generate": "continue prompts with a model",
    "chat": "talk to a model",
    "evaluate": "ask a model the questions of the paper's tasks, and score its answers",
    "inspect": "look at documents, a training batch, or neighbors",
    "convert": "from and to Hugging Face and Megatron checkpoints; from a training checkpoint",
    "plan": "parameters, FLOPs, memory, time and index bytes, before anything is started",
    "recipes": "list, show or copy the recipes that come with retrolit",
    "report": "runs as a page: curves, evaluation, neighbors; leakage between splits",
    "doctor": "look at this machine: versions, devices, torch and faiss side by side",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; the exit code comes back.

    A mistake of the user (ValueError or OSError raised by retrolit itself, a path that cannot be read or written) ends
    in one or two lines and exit code 2; anything else is our own slip and shows its traceback, as does every error when
    RETROLIT_DEBUG is set.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb in ("-V", "--version"):
        print(f"retrolit {__version__}")
        return 0
    if verb not in TRAINER_VERBS | TOOL_VERBS:
        close = difflib.get_close_matches(verb, [*TRAINER_VERBS, *TOOL_VERBS], n=1)
        hint = f"did you mean {close[0]}?" if close else f"the verbs are {', '.join([*TRAINER_VERBS, *TOOL_VERBS])}"
        print(f"retrolit: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    try:
        if verb in TRAINER_VERBS:
            return import_module("retrolit.cli.fit").main(argv)
        if verb == "plan":  # reads recipes as the trainer's verbs do
            return import_module("retrolit.cli.plan").main(argv[1:])
        from retrolit.cli.parser import run

        return run(import_module(f"retrolit.cli.{verb}"), verb, argv[1:])
    except (ValueError, OSError) as error:
        if os.environ.get("RETROLIT_DEBUG") or not _raised_by_retrolit(error):
            raise
        print(f"retrolit {verb}: {error}", file=sys.stderr)
        if verb == "prepare" and isinstance(error, OSError) and error.errno == errno.ENOSPC:
            print("What is finished is kept: make space, and the same command goes on from there.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nretrolit {verb}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _raised_by_retrolit(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.filename is not None:
        return True  # a path of the user's; pathlib or numpy may have been the one to touch it
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1])


def _help() -> str:
    rows = [f"  {verb:10} {text}" for verb, text in (TRAINER_VERBS | TOOL_VERBS).items()]
    return "\n".join(
        [
            "usage: retrolit VERB [-c recipe.yaml ...] [--option value ...]",
            "",
            "Language models pretrained with retrieval: RETRO and InstructRetro.",
            "",
            *rows,
            "",
            "retrolit VERB --help explains a verb.  A first run: retrolit fit -c recipes/tiny/gpt.yaml",
        ]
    )
