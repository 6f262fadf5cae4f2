"""The corpora of a data.yaml, opened: what they consist of is known without reading unchanged files again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrolit.storage import read_json, write_json
from retrolit.tokens.config import CorpusConfig, TokensConfig
from retrolit.tokens.corpus import Corpus, contents_fingerprint, documents, open_corpus
from retrolit.tokens.readers import Document


@dataclass
class OpenCorpus:
    """A corpus and what it consists of; `stream` is the error when it is gone and only its contents are known."""

    config: CorpusConfig
    stream: Corpus | FileNotFoundError
    fingerprint: str

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that decide which documents it gives (on_error changes nothing where nothing is wrong)."""
        names = ["text_field", "separator", "split"]
        # Stores made before there were headings keep their names.
        names += ["heading"] if self.config.heading is not None else []
        return {name: getattr(self.config, name) for name in names}

    def documents(self, skipped: Counter[str]) -> Iterator[Document]:
        return documents(self._present(), self.config, skipped)

    def position(self) -> int:
        return self._present().position()

    @property
    def size(self) -> int:
        return self._present().size

    def _present(self) -> Corpus:
        if isinstance(self.stream, FileNotFoundError):
            raise self.stream
        return self.stream


def open_corpora(config: TokensConfig, folder: Path) -> dict[str, OpenCorpus]:
    """The corpora of a configuration by name; `folder`/sources.json remembers what they consist of.

    A corpus whose files are gone can still be opened when it was known before, as long as nobody reads it.
    """
    known = read_json(folder / "sources.json") if (folder / "sources.json").exists() else {}
    contents: dict[str, Any] = dict(known)
    opened = {}
    for name, corpus in config.corpora.items():
        try:
            stream = open_corpus(corpus)
            contents[corpus.source] = stream.contents(known.get(corpus.source))
        except FileNotFoundError as error:
            if corpus.source not in known:
                raise
            stream = error
        opened[name] = OpenCorpus(corpus, stream, contents_fingerprint(contents[corpus.source]))
    if contents != known:
        write_json(folder / "sources.json", contents)
    return opened
