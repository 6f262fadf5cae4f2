"""Look at what lies on disk: documents, ..."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from retrolit.storage import Manifest
from retrolit.tokens import Tokenizer, TokenStore, load_tokenizer


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
        split: train, validation or test.
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


COMMANDS = {"documents": documents}


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


def _text(ids: list[int], tokenizer: Tokenizer | None, characters: int) -> str:
    if tokenizer is None:
        shown = " ".join(map(str, ids[: characters // 5]))
        return shown + (" ..." if len(ids) > characters // 5 else "")
    text = tokenizer.decode(ids)
    return text[:characters] + (f" ... ({len(text):,} characters)" if len(text) > characters else "")
