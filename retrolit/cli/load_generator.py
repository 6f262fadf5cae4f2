"""The generator that `generate` and `chat` write with: a model, its tokenizer, and for a Retro a retriever."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from retrolit.checkpoint import load_model
from retrolit.generation import Generator
from retrolit.models import Retro
from retrolit.retrieval import ExcludingRetriever, LiveRetriever
from retrolit.tokens import load_tokenizer


def load_generator(
    model: str, tokenizer: str | None, device: str, dtype: str, retriever: str | None, *, gate: float,
    num_neighbors: int | None, retrieval_stride: int | None, exclude: list[str] | None,
) -> Generator:  # fmt: skip
    """Opens everything. Raises ValueError or FileNotFoundError where something is missing or does not fit."""
    if tokenizer is None and Path(model).is_file():
        raise ValueError(f"{model}: a checkpoint has no tokenizer; name the one it was trained with: --tokenizer PATH")
    network = load_model(model, device=_device(device), dtype=getattr(torch, dtype))
    words = load_tokenizer(tokenizer or model)
    if retriever is None:
        if isinstance(network, Retro):
            warnings.warn("no --retriever: the Retro's decoder writes alone, as with gate 0", stacklevel=2)
        return Generator(network, words)
    if not isinstance(network, Retro):
        raise ValueError(f"retriever: expected a Retro, which reads neighbors, {model} holds a GPT; leave it out")
    found = live = LiveRetriever(retriever, network.config.num_retrieved_chunks)
    if exclude:
        found = ExcludingRetriever(live, lambda id: any(text in live.source(id) for text in exclude))
    return Generator(network, words, found, num_neighbors=num_neighbors, retrieval_stride=retrieval_stride, gate=gate)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but torch finds no GPU here; retrolit doctor shows what it finds")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
