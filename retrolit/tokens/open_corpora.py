"""The corpora of a data.yaml, opened: what they consist of is known without reading unchanged files again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from retrolit.storage import read_json, write_json
from retrolit.tokens.corpus import Corpus, contents_fingerprint


class CorpusSettings(Protocol):
    """What the two kinds of corpora, of documents and of conversations, say about themselves alike."""

    source: str
    on_error: Literal["stop", "skip"]
    split: Literal["train", "validation", "test"] | None

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that decide what the corpus gives."""
        ...


Settings = TypeVar("Settings", bound=CorpusSettings)
Record = TypeVar("Record")


@dataclass
class OpenCorpus(Generic[Settings, Record]):
    """A corpus and what it consists of; `stream` is the error when it is gone and only its contents are known."""

    config: Settings
    stream: Corpus[Record] | FileNotFoundError
    fingerprint: str
    choose: Callable[[Corpus[Record], Settings, Counter[str]], Iterator[Record]]
    """The records of the stream that are whole; what is left out is counted."""

    @property
    def is_there(self) -> bool:
        """Whether its files can be read."""
        return not isinstance(self.stream, FileNotFoundError)

    def records(self, skipped: Counter[str]) -> Iterator[Record]:
        return self.choose(self._present(), self.config, skipped)

    def position(self) -> int:
        return self._present().position()

    @property
    def size(self) -> int:
        return self._present().size

    def _present(self) -> Corpus[Record]:
        if isinstance(self.stream, FileNotFoundError):
            raise self.stream
        return self.stream


def open_corpora(
    corpora: Mapping[str, Settings],
    folder: Path,
    open_one: Callable[[Settings], Corpus[Record]],
    choose: Callable[[Corpus[Record], Settings, Counter[str]], Iterator[Record]],
) -> dict[str, OpenCorpus[Settings, Record]]:
    """The corpora of a configuration by name; `folder`/sources.json remembers what they consist of.

    A corpus whose files are gone can still be opened when it was known before, as long as nobody reads it.
    """
    known = read_json(folder / "sources.json") if (folder / "sources.json").exists() else {}
    contents: dict[str, Any] = dict(known)
    opened = {}
    for name, corpus in corpora.items():
        try:
            stream = open_one(corpus)
            contents[corpus.source] = stream.contents(known.get(corpus.source))
        except FileNotFoundError as error:
            if corpus.source not in known:
                raise
            stream = error
        opened[name] = OpenCorpus(corpus, stream, contents_fingerprint(contents[corpus.source]), choose)
    if contents != known:
        write_json(folder / "sources.json", contents)
    return opened
