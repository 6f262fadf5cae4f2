"""The stores of one corpus on disk: <folder>/tokens/<corpus>-<key>/ and the like, made block by block."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrolit.storage import Manifest, fingerprint, rename_folder, set_aside_damaged
from retrolit.storage.blocks import EVERYTHING, Arrays, Share, run_blocks
from retrolit.tokens.open_corpora import OpenCorpus
from retrolit.tokens.progress import Progress
from retrolit.tokens.tokenize import BLOCK_CHARACTERS, group


class StoresJob:
    """The stores of one corpus: where they belong, how they are made, how they are opened.

    Args:
        name: The corpus's.
        corpus: What is read.
        kind: Of the manifest.
        settings: All that decides what the stores hold, beside the inputs.
        inputs: Name of each input -> its fingerprint, without the corpus's.
        folder: Where the folder of the stores goes.
        work: Makes a block of a group of records; travels to the worker processes.
        join: Writes the stores into a folder from the blocks 0 to a count in another; returns counts.
        size: Of a record, in characters.
    """

    def __init__(
        self,
        name: str,
        corpus: OpenCorpus[Any, Any],
        *,
        kind: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        folder: Path,
        work: Callable[[Any], Arrays],
        join: Callable[[Path, int, Path], dict[str, Any]],
        size: Callable[[Any], int],
    ) -> None:
        self._name = name
        self._corpus = corpus
        self._kind = kind
        self._settings = settings
        self._inputs = {"corpus": corpus.fingerprint, **inputs}
        self._make_block, self._join, self._size = work, join, size
        key = fingerprint([self._settings, self._inputs])[:12]
        self.target = folder / f"{name}-{key}"
        self._work = folder / f".{name}-{key}.work"

    def set_aside_damaged(self) -> None:
        """Makes way for damaged stores to be made again, if their corpus is still there."""
        if self._corpus.is_there:
            set_aside_damaged(self.target, self._kind)

    def run(self, progress: Progress, processes: int, share: Share) -> None:
        """Does this share's blocks and, as rank 0, makes `target`; a rank that has done its share can call it again."""
        skipped = Counter[str]()
        done = self._work / f"share-{share.rank}-of-{share.world}"
        if share.rank != 0 and done.exists():
            return
        count = self._run_blocks(progress, processes, share, skipped)
        if share.rank != 0:
            with suppress(FileNotFoundError):  # rank 0 was faster and has tidied up
                done.touch()
            return
        if share.world > 1:
            skipped.clear()
            count = self._run_blocks(progress, processes, EVERYTHING, skipped)
        if count == 0:
            raise ValueError(f"corpus {self._name}: {self._corpus.config.source} holds nothing to read")
        whole = self._work / "whole"
        shutil.rmtree(whole, ignore_errors=True)  # what a killed run left
        whole.mkdir()
        with progress(f"joining {self._name}", None):
            sizes = self._join(self._work, count, whole)
            sizes["skipped"] = dict(skipped)
            files: dict[str, dict[str, Any]] = {path.name: {} for path in sorted(whole.iterdir())}
            Manifest(self._kind, self._settings, self._inputs, sizes, files).write(whole)
        rename_folder(whole, self.target)

    def open(self) -> Manifest:
        """The manifest of the finished stores.

        Raises ValueError when files are damaged and their corpus is gone, or when they lack records that were skipped
        under another `on_error`.
        """
        manifest = Manifest.read(self.target, self._kind)
        manifest.verify(self.target)
        shutil.rmtree(self._work, ignore_errors=True)  # the blocks, now that they are joined
        bad = {kind: count for kind, count in manifest.sizes["skipped"].items() if kind != "empty document"}
        if bad and self._corpus.config.on_error == "stop":
            counts = ", ".join(f"{count} x {kind}" for kind, count in bad.items())
            raise ValueError(
                f"{self.target}: was made with on_error: skip and lacks records ({counts}), this run asks for "
                f"on_error: stop; mend the records, or set on_error: skip"
            )
        return manifest

    def _run_blocks(self, progress: Progress, processes: int, share: Share, skipped: Counter[str]) -> int:
        with progress(f"tokenizing {self._name}", self._corpus.size) as advance:

            def groups() -> Iterator[list[Any]]:
                for together in group(self._corpus.records(skipped), BLOCK_CHARACTERS, self._size):
                    advance(self._corpus.position())
                    if share.rank != 0 and self.target.exists():  # rank 0 was faster and did our blocks too
                        return
                    yield together

            return run_blocks(self._work, groups(), self._make_block, processes, share)
