"""retrolit: language models pretrained with retrieval (RETRO, InstructRetro) on PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrolit.checkpoint import load_model, save_model
    from retrolit.generation import Generator
    from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
    from retrolit.retrieval import LiveRetriever, Retriever

__version__ = "0.1.0"

__all__ = [
    "GPT",
    "GPTConfig",
    "Generator",
    "LiveRetriever",
    "Retriever",
    "Retro",
    "RetroConfig",
    "__version__",
    "load_model",
    "save_model",
]

_HOMES = ("models", "checkpoint", "generation", "retrieval")


def __getattr__(name: str) -> object:
    """Public names are imported on first use, so that `import retrolit` costs nothing."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"retrolit.{home}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'retrolit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
