"""Look at what lies on disk, and at what training reads of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from retrolit.cli.inspect_neighbors import neighbors
from retrolit.storage import Manifest
from retrolit.tokens import Tokenizer, TokenStore, load_tokenizer

if TYPE_CHECKING:
    from retrolit.training import PretrainingData


def documents(
    path: str,
    split: str = "train",
    number: int = 5,
    start: int = 0,
    characters: int = 1000,
    tokenizer: str | None = None,
) -> None:
    """Show documents of token stores: where they came from, how many tokens they have, their text.

    Args:
        path: a prepared folder, the folder of one corpus in it, or the prefix of a .bin / .idx pair.
        split: train, validation, test, or database for corpora that are database_only.
        number: how many documents of each store.
        start: the first one.
        characters: how much of each text.
        tokenizer: folder or file of the tokenizer, where the store does not know it; ids are shown without one.
    """
    console = Console(soft_wrap=True, highlight=False)
    for prefix in _find_stores(Path(path), split):
        store = TokenStore(prefix)
        codec = load_tokenizer(tokenizer) if tokenizer is not None else _tokenizer_of(prefix)
        console.print(f"{prefix}: {len(store):,} documents, {store.num_tokens:,} tokens ({store.dtype})", style="bold")
        for i in range(start, min(start + number, len(store))):
            console.print(f"\n{store.source(i)}: document {i}, {len(store[i]):,} tokens", style="cyan", markup=False)
            console.print(_text(store[i].tolist(), codec, characters), markup=False)
        console.print()


def batch(recipe: str, step: int = 0, number: int = 2, characters: int = 1000) -> None:
    """Show samples of a training step as the model reads them: chunks in turns of colour, masked tokens struck out.

    Of conversations, trained tokens are coloured and stand between bars, and packed ones are divided by lines.

    Args:
        recipe: a training recipe, e.g. recipes/tiny/gpt.yaml.
        step: the optimizer step, from 0.
        number: how many samples of it.
        characters: how much of each text.
    """
    from retrolit.cli.inspect_conversations import show_conversations
    from retrolit.cli.recipe_data import read_recipe_data
    from retrolit.training import InstructionData, PretrainingData

    data = read_recipe_data(recipe)
    console = Console(soft_wrap=True, highlight=False)
    if isinstance(data, InstructionData):
        show_conversations(data, step, number, characters, console)
        return
    assert isinstance(data, PretrainingData)
    samples = data.training_samples()
    first = step * data.global_batch_size
    numbers = range(first, first + min(number, data.global_batch_size))
    read = samples[numbers]
    console.print(f"step {step}: samples {first} to {first + data.global_batch_size - 1}", style="bold")
    for row, sample in enumerate(numbers):
        stream, window = samples.blend[sample]
        corpus, start = data.corpora["train"][stream], samples.windows[stream].start(window)
        document = int(np.searchsorted(corpus.store.document_starts, start, side="right")) - 1
        masked = int((read.loss_mask[row] == 0).sum())
        console.print(
            f"\nsample {sample}: {corpus.name}, stream tokens {start:,} to {start + data.sequence_length:,}, begins in "
            f"{corpus.store.source(document)}; {masked} labels masked",
            style="cyan",
            markup=False,
        )
        console.print(_chunks(read.tokens[row].tolist(), read.loss_mask[row].tolist(), data)[:characters])


COMMANDS = {"documents": documents, "batch": batch, "neighbors": neighbors}


def _find_stores(path: Path, split: str) -> list[Path]:
    """The prefixes of the stores that `path` means."""
    if Path(f"{path}.idx").is_file():
        return [path]
    found = sorted([*path.glob(f"{split}.idx"), *path.glob(f"tokens/*/{split}.idx")])
    if not found:
        raise FileNotFoundError(
            f"{path}: expected a prepared folder, a corpus in it, or the prefix of a store, got no {split}.idx there; "
            f"make one with: retrolit prepare -c data.yaml"
        )
    return [file.with_suffix("") for file in found]


def _tokenizer_of(prefix: Path) -> Tokenizer | None:
    """The tokenizer a prepared store was made with; it lies two folders up."""
    try:
        manifest = Manifest.read(prefix.parent, "tokens")
    except FileNotFoundError:  # a store from elsewhere
        return None
    return load_tokenizer(prefix.parents[2] / manifest.settings["tokenizer"])


def _chunks(ids: list[int], loss_mask: list[float], data: PretrainingData) -> Text:
    """The tokens of one sample (T,) as text: a colour a chunk, the end of a document visible."""
    shown = Text()
    for start in range(0, len(ids), data.chunk_length):
        style = "green" if start // data.chunk_length % 2 else "white"
        # Runs of tokens with the same mask, cut at the ends of documents: a token alone may be half a character.
        span = range(start, min(start + data.chunk_length, len(ids)))
        for (end, mask), run in itertools.groupby(span, key=lambda i: (ids[i] == data.tokenizer.eod_id, loss_mask[i])):
            text = "<end of document>\n" if end else data.tokenizer.decode([ids[i] for i in run])
            shown.append(text, style=style if mask else f"{style} strike")
    return shown


def _text(ids: list[int], tokenizer: Tokenizer | None, characters: int) -> str:
    if tokenizer is None:
        shown = " ".join(map(str, ids[: characters // 5]))
        return shown + (" ..." if len(ids) > characters // 5 else "")
    text = tokenizer.decode(ids)
    return text[:characters] + (f" ... ({len(text):,} characters)" if len(text) > characters else "")
