"""Reading other programs' torch files without running anything they ask for.

A torch file is a pickle, and a pickle is a program: it may name any function and call it. torch's own weights-only
reader is used, which knows a short list of functions and never imports a name. Megatron's files also name classes of
NVIDIA's packages, for enums and options; those names get an inert stand-in that keeps what it is given. Any other name
is refused before a single instruction of the file is carried out.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# Names that get a stand-in. Nothing is ever imported or looked up because of them.
FOREIGN_PACKAGES = ("megatron", "transformer_engine", "apex", "nemo", "modelopt")
FOREIGN_NAMES = (
    "_io.BytesIO",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "datetime.datetime",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "signal.Signals",
    "types.SimpleNamespace",
)


class StandIn:
    """An object whose class is not loaded: it keeps the arguments and the state it was pickled with, no more."""

    arguments: tuple = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> StandIn:
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load_foreign(path: Path) -> Any:
    """The content of a torch file written by another program, its tensors memory-mapped on the CPU.

    `argparse.Namespace` comes back as itself; objects of unknown classes are `StandIn`s. A file that names anything
    else, is damaged, or is older than torch 1.6's zip format raises ValueError.
    """
    try:
        named = sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except OSError:
        raise
    except Exception as error:  # whatever a parser may stumble over in a hostile or damaged file
        raise ValueError(f"{path}: not a torch file that can be read safely ({_first_line(error)})") from error
    refused = [name for name in named if not _is_harmless(name)]
    if refused:
        raise ValueError(
            f"{path}: asks for {', '.join(refused)}, which weights do not need; nothing of the file was run. "
            "Do not trust it"
        )
    allowed = [(Namespace if name == "argparse.Namespace" else type(name, (StandIn,), {}), name) for name in named]
    try:
        with safe_globals(allowed):  # pyright: ignore[reportArgumentType]
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path}: damaged, or not a torch file of weights ({_first_line(error)})") from error


def _is_harmless(name: str) -> bool:
    return name == "argparse.Namespace" or name in FOREIGN_NAMES or name.partition(".")[0] in FOREIGN_PACKAGES


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
