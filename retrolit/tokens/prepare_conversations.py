"""From conversations to stores of ids, masks and neighbors on disk.

    <folder>/tokenizer-<key>/                     the tokenizer and its manifest
    <folder>/conversations/<corpus>-<key>/        train, validation and test stores and their manifest
        <split>.bin .idx .sources                 the ids of each conversation, as a token store
        <split>.mask                              a byte for each of these ids: 1 where it is trained
        <split>-neighbors.bin .idx .sources       num_neighbors documents a conversation, empty where it has fewer

A conversation's split is decided by a hash of its first question: all replies to a question fall on one side. Where a
corpus is split by passages, it is the lowest such hash among all conversations that it shares passages with.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from retrolit.storage import Manifest, atomic_write, fingerprint, lock
from retrolit.storage.blocks import EVERYTHING, Arrays, Share, block_path, read_block
from retrolit.tokens.chat_template import ChatTemplate, Rendered, load_chat_template
from retrolit.tokens.config import SPLITS
from retrolit.tokens.conversation import Conversation
from retrolit.tokens.conversation_config import ConversationsConfig
from retrolit.tokens.conversation_readers import conversations, open_conversations
from retrolit.tokens.open_corpora import open_corpora
from retrolit.tokens.prepare import PreparedTokens, run_jobs, shares_of
from retrolit.tokens.prepare_stores import StoresJob
from retrolit.tokens.prepare_tokenizer import prepare_given_tokenizer
from retrolit.tokens.progress import Progress, silent
from retrolit.tokens.shared_passages import group_hashes, passage_marks
from retrolit.tokens.splits import assign_splits, text_hash
from retrolit.tokens.store import TokenStore, suffixed, token_dtype
from retrolit.tokens.store_writer import StoreWriter
from retrolit.tokens.tokenize import BATCH_CHARACTERS, cut_texts, group
from retrolit.tokens.tokenizer import Tokenizer, load_tokenizer

KIND = "conversations"
NEIGHBORS = "-neighbors"


def prepare_conversations(
    config: ConversationsConfig,
    folder: str | Path,
    progress: Progress = silent,
    processes: int | None = None,
    share: Share = EVERYTHING,
) -> PreparedTokens | None:
    """Makes what is missing in `folder` and opens the rest, as `prepare_tokens_share` does with documents.

    Of `sizes` in the manifests, `documents` are conversations, `trained` their trained tokens, `bytes` those that the
    trained tokens stand for, and `too_long` the conversations left out. None as `prepare_tokens_share`.
    Raises ValueError and FileNotFoundError for what is wrong with the configuration or the corpora.
    """
    folder = Path(folder)
    corpora = open_corpora(config.corpora, folder, open_conversations, conversations)
    with lock(folder / ".tokenizer.lock"):
        tokenizer_folder = prepare_given_tokenizer(config.tokenizer, folder)
    tokenizer, template = load_tokenizer(tokenizer_folder), load_chat_template(config.template)
    names = ("max_length", "train_on", "num_contexts", "num_neighbors", "neighbor_length")
    rendering = Rendering(template, tokenizer, *(getattr(config, name) for name in names))
    jobs = {}
    for name, corpus in corpora.items():
        shares = shares_of(corpus.config, config.splits)
        by_passages = corpus.config.split_by == "passages"
        jobs[name] = StoresJob(
            name,
            corpus,
            kind=KIND,
            settings={
                **corpus.config.reading,
                **{name: getattr(config, name) for name in names},
                "splits": shares,
                "tokenizer": tokenizer_folder.name,
                "vocab_size": tokenizer.vocab_size,
                "template": template.settings,
            },
            inputs={"tokenizer": tokenizer.fingerprint},
            folder=folder / "conversations",
            work=replace(rendering, marked=by_passages),
            join=partial(
                join_conversations,
                vocab_size=tokenizer.vocab_size,
                shares=shares,
                num_neighbors=config.num_neighbors,
                by_passages=by_passages,
            ),
            size=_length,
        )
    weights = {name: corpus.weight for name, corpus in config.corpora.items()}
    return run_jobs(jobs, tokenizer_folder, tokenizer, weights, folder, share, progress, processes)


@dataclass
class Rendering:
    """Makes one block of a group of conversations; travels to the worker processes."""

    template: ChatTemplate
    tokenizer: Tokenizer
    max_length: int
    train_on: Any
    num_contexts: int
    num_neighbors: int
    neighbor_length: int
    marked: bool = False
    """Whether a block has what tells conversations that share passages."""

    def __call__(self, together: list[Conversation]) -> Arrays:
        """Of all conversations that are not too long, one after the other: `tokens`, `mask` and `lengths`,
        `reply_bytes`, the `hashes` of their first questions, `sources` and `source_bytes`, and of num_neighbors
        neighbors each `neighbor_tokens` and `neighbor_lengths`. `too_long` counts the others. Where they are marked,
        `marks` and `mark_counts` of `passage_marks`.
        """
        if multiprocessing.parent_process() is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one of several processes: threads would only collide
        # Very many lists and no cycle among them: the collector would look through all of them again and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._block(together)
        finally:
            if collecting:
                gc.enable()

    def _block(self, together: list[Conversation]) -> Arrays:
        rendered: list[Rendered] = []
        kept: list[Conversation] = []
        for batch in group(together, BATCH_CHARACTERS, _length):
            for conversation, one in zip(
                batch,
                self.template.render_all(batch, self.tokenizer, self.max_length, self.train_on, self.num_contexts),
                strict=True,
            ):
                if one is not None:
                    rendered.append(one)
                    kept.append(conversation)
        lengths = np.array([len(one.tokens) for one in rendered], np.int64)
        dtype = token_dtype(self.tokenizer.vocab_size)
        sources = [conversation.source.encode(errors="replace") for conversation in kept]
        neighbors = self._neighbors(kept)
        return {
            "tokens": np.fromiter(chain.from_iterable(one.tokens for one in rendered), dtype, int(lengths.sum())),
            "mask": np.frombuffer(b"".join(bytes(one.mask) for one in rendered), np.uint8),
            "lengths": lengths,
            "reply_bytes": np.array([one.reply_bytes for one in rendered], np.int64),
            "hashes": np.array([text_hash(each.turns[0].content.encode()) for each in kept], np.uint64),
            "sources": np.frombuffer(b"".join(sources), np.uint8),
            "source_bytes": np.array([len(source) for source in sources], np.int64),
            "neighbor_tokens": np.array(list(chain.from_iterable(neighbors)), dtype),
            "neighbor_lengths": np.array([len(ids) for ids in neighbors], np.int64),
            "too_long": np.array(len(together) - len(kept)),
        } | (self._marks(kept) if self.marked else {})

    def _marks(self, kept: list[Conversation]) -> Arrays:
        texts = [
            " ".join([message.content for message in each.messages] + [context.text for context in each.contexts])
            for each in kept
        ]
        marks, counts = passage_marks(texts)
        return {"marks": marks, "mark_counts": counts}

    def _neighbors(self, kept: list[Conversation]) -> list[list[int]]:
        """num_neighbors texts of ids a conversation, cut to their length, empty where it has fewer contexts."""
        if not self.num_neighbors:
            return []
        texts = []
        for each in kept:
            blocks = [context.as_neighbor for context in each.contexts]
            texts += (blocks + [""] * self.num_neighbors)[: self.num_neighbors]
        return [ids[: self.neighbor_length] for ids in self.tokenizer.encode_batch(texts)]


def join_conversations(
    blocks: Path, count: int, folder: Path, *, vocab_size: int, shares: dict[str, float], num_neighbors: int,
    by_passages: bool,
) -> dict[str, Any]:  # fmt: skip
    """Writes the stores of all splits from blocks 0 to `count`; returns the counts for the manifest."""
    sizes: dict[str, Counter[str]] = {split: Counter(documents=0, tokens=0, trained=0, bytes=0) for split in SPLITS}
    seen, groups = [np.empty(0, np.uint64)], _hashes_of_groups(blocks, count) if by_passages else None
    too_long = 0
    with ExitStack() as files:
        writers = [files.enter_context(StoreWriter(folder / split, vocab_size)) for split in SPLITS]
        masks = [files.enter_context(atomic_write(folder / f"{split}.mask")) for split in SPLITS]
        neighbors = [
            files.enter_context(StoreWriter(folder / f"{split}{NEIGHBORS}", vocab_size))
            for split in SPLITS
            if num_neighbors
        ]
        for number in range(count):
            block = read_block(block_path(blocks, number))
            too_long += int(block["too_long"])
            split_of = assign_splits(block["hashes"] if groups is None else groups[number], shares)
            sources = cut_texts(block["sources"].tobytes(), block["source_bytes"])
            seen.append(block["hashes"])
            for split, name in enumerate(SPLITS):
                mine = split_of == split
                lengths, tokens = block["lengths"][mine], np.repeat(mine, block["lengths"])
                chosen = np.flatnonzero(mine)
                writers[split].add(block["tokens"][tokens], lengths, [sources[i] for i in chosen])
                masks[split].write(block["mask"][tokens].tobytes())
                sizes[name].update(
                    documents=len(lengths),
                    tokens=int(lengths.sum()),
                    trained=int(block["mask"][tokens].sum()),
                    bytes=int(block["reply_bytes"][mine].sum()),
                )
                if num_neighbors:
                    mine = np.repeat(mine, num_neighbors)
                    lengths, tokens = block["neighbor_lengths"][mine], np.repeat(mine, block["neighbor_lengths"])
                    names = [sources[i] for i in chosen for _ in range(num_neighbors)]
                    neighbors[split].add(block["neighbor_tokens"][tokens], lengths, names)
    hashes = np.concatenate(seen)
    counts: dict[str, Any] = {name: dict(each) for name, each in sizes.items()}
    counts |= {"too_long": too_long, "duplicates": len(hashes) - len(np.unique(hashes))}
    return counts if groups is None else counts | {"groups": len(np.unique(np.concatenate(groups)))}


def _hashes_of_groups(blocks: Path, count: int) -> list[np.ndarray]:
    """Of each block's conversations the hashes of the groups that share passages."""
    names = ("marks", "mark_counts", "hashes")
    read = [tuple(block[name] for name in names) for block in (read_block(block_path(blocks, i)) for i in range(count))]
    lowest, group = np.unique(group_hashes(*map(np.concatenate, zip(*read, strict=True))), return_inverse=True)
    # The lowest of several hashes is low: hashed once more, groups of any size are spread evenly.
    decided = np.array([text_hash(each.tobytes()) for each in lowest], np.uint64)[group]
    return np.split(decided, np.cumsum([len(hashes) for *_, hashes in read])[:-1])


class ConversationStore(TokenStore):
    """A token store whose documents are conversations, with what is trained of each and its neighbors.

    Raises ValueError and FileNotFoundError as TokenStore.
    """

    def __init__(self, prefix: str | Path) -> None:
        super().__init__(prefix)
        path = suffixed(prefix, ".mask")
        if not path.is_file() or path.stat().st_size != self.num_tokens:
            raise ValueError(f"{path}: expected a byte for each of {self.num_tokens:,} tokens; prepare the data again")
        self.mask = np.memmap(path, np.uint8, mode="r") if self.num_tokens else np.empty(0, np.uint8)  # (tokens,)
        neighbors = suffixed(prefix, NEIGHBORS)
        self.neighbors = TokenStore(neighbors) if suffixed(neighbors, ".idx").is_file() else None
        self.num_neighbors = len(self.neighbors) // max(1, len(self)) if self.neighbors is not None else 0

    def mask_of(self, conversation: int) -> np.ndarray:
        """Which ids of a conversation are trained: a read-only view, (length,) uint8."""
        begin, end = self.document_starts[conversation : conversation + 2]
        return self.mask[begin:end]

    @cached_property
    def prompt_lengths(self) -> np.ndarray:
        """How many ids of each conversation stand before its last reply: (conversations,) int64."""
        trained = np.asarray(self.mask, np.bool_)
        begins = np.flatnonzero(trained & ~np.append(False, trained[:-1]))  # of a reply
        last = begins[np.searchsorted(begins, self.document_starts[1:]) - 1]
        return last - self.document_starts[:-1]

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over the ids and what is trained of them, from the manifest beside the files."""
        files = Manifest.read(self.prefix.parent, KIND).files
        return fingerprint([files[self.prefix.name + suffix]["sha256"] for suffix in (".bin", ".idx", ".mask")])

    def num_inputs(self, conversation: int) -> int:
        """How many ids of a conversation a model reads: all but the last."""
        begin, end = self.document_starts[conversation : conversation + 2]
        return int(end - begin) - 1

    def neighbors_of(self, conversation: int) -> list[np.ndarray]:
        """The ids of its neighbors, (length,) each and empty where there are fewer than num_neighbors."""
        if self.neighbors is None:
            return []
        first = conversation * self.num_neighbors
        return [self.neighbors[number] for number in range(first, first + self.num_neighbors)]

    def __reduce__(self) -> tuple:
        return ConversationStore, (self.prefix,)


def _length(conversation: Conversation) -> int:
    """In characters."""
    texts = sum(len(message.content) for message in conversation.messages)
    return texts + sum(len(context.text) for context in conversation.contexts)
