"""retrolit: language models pretrained with retrieval (RETRO, InstructRetro) on PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# Public names and where they live; imported on first use, so that `import retrolit` costs nothing.
_HOME = {
    "GPT": "retrolit.models",
    "GPTConfig": "retrolit.models",
    "Generator": "retrolit.generation",
    "Retro": "retrolit.models",
    "RetroConfig": "retrolit.models",
    "load_model": "retrolit.checkpoint",
    "save_model": "retrolit.checkpoint",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'retrolit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
