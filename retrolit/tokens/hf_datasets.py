"""Hugging Face datasets as a corpus, through the package datasets.

hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT (the split is train when not given; CONFIG may be empty); NAME is a
data set on the Hub, or a folder written by `save_to_disk`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic

from retrolit.tokens.corpus import Record_co
from retrolit.tokens.readers import BadRecord


class HuggingFaceDataset(Generic[Record_co]):
    """What `read_row` makes of the rows of one split, each with where it is."""

    def __init__(self, source: str, read_row: Callable[[Any, str], Iterable[Record_co | BadRecord]]) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ValueError(f'{source} needs the package datasets: pip install "retrolit[data]"') from error
        self._read_row = read_row
        name, subset, split = [*source.removeprefix("hf:").split(":"), "", ""][:3]
        if Path(name).is_dir():
            found = datasets.load_from_disk(name)
            self._rows = found[split or "train"] if isinstance(found, datasets.DatasetDict) else found
        else:
            self._rows = datasets.load_dataset(name, subset or None, split=split or "train")
        self._name = name
        self._done = 0
        self.size: int = self._rows.data.nbytes

    def read(self) -> Iterator[Record_co | BadRecord]:
        for number, row in enumerate(self._rows, 1):
            self._done = number
            yield from self._read_row(row, f"{self._name}:{number}")

    def position(self) -> int:
        return int(self._rows.data.nbytes * self._done / len(self._rows))

    def contents(self, known: Any) -> str:
        return self._rows._fingerprint  # what the package itself keys its caches by
