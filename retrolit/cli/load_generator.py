"""What `generate` and `chat` write with, and the options that both take for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from retrolit.checkpoint import load_model
from retrolit.checkpoint.model_folder import is_checkpoint
from retrolit.checkpoint.model_types import Model
from retrolit.generation import Generator, SamplingConfig
from retrolit.models import Retro
from retrolit.retrieval import ExcludingRetriever, LiveRetriever
from retrolit.tokens import Tokenizer, load_tokenizer

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass
class Writer:
    """A model, its tokenizer, where it retrieves from, and how it draws."""

    model: Model
    tokenizer: Tokenizer
    retriever: LiveRetriever | ExcludingRetriever | None
    sampling: SamplingConfig
    settings: dict[str, Any]
    """gate, num_neighbors and retrieval_stride."""

    def generator(self) -> Generator:
        """Writes with the retriever's neighbors. Raises ValueError where these do not fit together."""
        if self.retriever is None and isinstance(self.model, Retro):
            warnings.warn("no --retriever: the Retro's decoder writes alone, as with gate 0", stacklevel=2)
        return Generator(self.model, self.tokenizer, self.retriever, **self.settings)


def open_writer(
    model: str,
    *,
    tokenizer: str | None = None,
    device: Device = "auto",
    dtype: Precision = "float32",
    retriever: str | None = None,
    gate: float = 1.0,
    num_neighbors: int | None = None,
    retrieval_stride: int | None = None,
    exclude: list[str] | None = None,
    **sampling: Any,
) -> Writer:
    """Opens everything. Raises ValueError or FileNotFoundError where something is missing or cannot be.

    Args:
        model: a model folder, or a training checkpoint (.ckpt) together with --tokenizer.
        tokenizer: the tokenizer's folder or file; the model folder's own when not given.
        device: where the model runs; auto takes a GPU where there is one.
        dtype: what the model computes in.
        retriever: the index to retrieve from: an index folder, or a prepared folder. A Retro reads neighbors from it
            while it writes.
        gate: scales what neighbors add to the text; 0 retrieves nothing.
        num_neighbors: neighbors of a chunk; as many as in training when not given.
        retrieval_stride: new tokens after which neighbors are sought again; a chunk's length when not given.
        exclude: leave out neighbors with this text in their source, as --show_neighbors shows it; may be repeated.
    """
    drawn = SamplingConfig(**sampling)
    if tokenizer is None and is_checkpoint(Path(model)):
        raise ValueError(f"{model}: a checkpoint has no tokenizer; name the one it was trained with: --tokenizer PATH")
    network = load_model(model, device=_device(device), dtype=getattr(torch, dtype))
    settings = {"gate": gate, "num_neighbors": num_neighbors, "retrieval_stride": retrieval_stride}
    found = None
    if retriever is not None:
        length = {"num_retrieved_chunks": network.config.num_retrieved_chunks} if isinstance(network, Retro) else {}
        found = live = LiveRetriever(retriever, **length)
        if exclude:
            found = ExcludingRetriever(live, lambda id: any(text in live.source(id) for text in exclude))
    return Writer(network, load_tokenizer(tokenizer or model), found, drawn, settings)


def load_generator(
    model: str, tokenizer: str | None, device: Device, dtype: Precision, retriever: str | None, *, gate: float,
    num_neighbors: int | None, retrieval_stride: int | None, exclude: list[str] | None,
) -> Generator:  # fmt: skip
    """The generator alone, for those who draw by settings of their own."""
    return open_writer(
        model, tokenizer=tokenizer, device=device, dtype=dtype, retriever=retriever, gate=gate,
        num_neighbors=num_neighbors, retrieval_stride=retrieval_stride, exclude=exclude,
    ).generator()  # fmt: skip


@contextmanager
def warnings_in_lines(verb: str) -> Iterator[None]:
    """Warnings go to standard error as a line each that names the verb."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"retrolit {verb}: {message}", file=sys.stderr)
        yield


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but torch finds no GPU here; retrolit doctor shows what it finds")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
