"""Text to tokenizer and token stores, and to an index with neighbor tables."""

from __future__ import annotations

import sys
from pathlib import Path

from retrolit.data.preparation import (
    DataConfig,
    InstructionConfig,
    Prepared,
    PreparedInstruction,
    prepare_instruction_share,
    prepare_share,
)
from retrolit.retrieval.card import Card
from retrolit.retrieval.neighbors import NeighborTable
from retrolit.retrieval.prepare import PreparedRetrieval, RetrievalConfig
from retrolit.storage import Manifest
from retrolit.storage.blocks import Share
from retrolit.storage.manifest import set_aside_changed
from retrolit.tokens.config import TokensConfig
from retrolit.tokens.conversation_config import ConversationsConfig
from retrolit.tokens.progress import visible


def prepare(
    folder: str,
    tokens: TokensConfig | None = None,
    retrieval: RetrievalConfig | None = None,
    conversations: ConversationsConfig | None = None,
    check: bool = False,
) -> None:
    """Make what a data.yaml describes: a tokenizer and token stores, and for Retro an index and neighbor tables.

    For instruction tuning it describes conversations, and stores of these are made.

    What is there already is opened, what was interrupted goes on, what is damaged is made again. Started on several
    machines with torchrun or srun, it divides the work among them. Usually: retrolit prepare -c data.yaml

    Args:
        folder: where the artifacts go, e.g. prepared/quickstart.
        tokens: corpora, tokenizer and splits.
        retrieval: chunk database, index and neighbor tables; none are made if not given.
        conversations: in place of tokens: corpora of conversations, chat template, tokenizer and splits.
        check: first reads all that is finished and compares checksums; without it missing files are noticed, and files
            of another size.
    """
    if (tokens is None) == (conversations is None) or (retrieval is not None and tokens is None):
        raise ValueError(
            "expected tokens, perhaps with retrieval, or conversations; usually: retrolit prepare -c data.yaml"
        )
    share = Share.from_environment()
    if check:
        if share.world > 1:
            raise ValueError(f"check: expected one process, got {share.world}; check without torchrun or srun first")
        set_aside_changed(Path(folder))

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    if conversations is not None:
        prepared = prepare_instruction_share(InstructionConfig(folder, conversations), share, visible)
    else:
        assert tokens is not None
        prepared = prepare_share(DataConfig(folder, tokens, retrieval), share, visible, tell)
    if prepared is None:
        print(f"rank {share.rank} of {share.world}: my share of the blocks is done; rank 0 finishes", file=sys.stderr)
        return
    if share.rank != 0:
        return
    if isinstance(prepared, Prepared):
        _report(prepared)
    else:
        _report_conversations(prepared)


def _report(prepared: Prepared) -> None:
    tokens = prepared.tokens
    print(f"tokenizer   {tokens.tokenizer_folder}")
    if not Manifest.read(tokens.tokenizer_folder, "tokenizer").sizes["keeps_text"]:
        print("  note       this tokenizer changes some texts: what it decodes can differ from what it read")
    for name, manifest in tokens.manifests.items():
        sizes = manifest.sizes
        print(f"{name:11} {tokens.folders[name]}")
        stores = {"database": tokens.database} if "database" in sizes else tokens.stores
        for split, there in stores.items():
            counts = sizes[split]
            if name in there:
                print(
                    f"  {split:10} {counts['documents']:>10,} documents {counts['tokens']:>14,} tokens "
                    f"{counts['bytes'] / counts['tokens']:6.2f} bytes a token"
                )
            else:
                print(f"  {split:10} no documents")
        notes = [f"{sizes['duplicates']:,} exact duplicates"] if sizes["duplicates"] else []
        left_out = sizes.get("evaluation_documents")
        notes += [f"{left_out:,} copies of validation and test documents left out"] if left_out else []
        notes += [f"{count:,} x {kind} left out" for kind, count in sizes["skipped"].items()]
        if notes:
            print(f"  note       {'; '.join(notes)}")
    if prepared.retrieval is not None:
        _report_retrieval(prepared.retrieval)
    kind = "documents" if prepared.retrieval is None else "neighbors"
    print(f"look        retrolit inspect {kind} {prepared.folder}")
    print("next        retrolit fit -c RECIPE, with a recipe that names this data.yaml")


def _report_conversations(prepared: PreparedInstruction) -> None:
    tokens = prepared.tokens
    print(f"tokenizer   {tokens.tokenizer_folder}")
    for name, manifest in tokens.manifests.items():
        sizes = manifest.sizes
        print(f"{name:11} {tokens.folders[name]}")
        for split, stores in tokens.stores.items():
            counts = sizes[split]
            if name in stores:
                print(
                    f"  {split:10} {counts['documents']:>10,} conversations {counts['tokens']:>14,} tokens, "
                    f"{counts['trained']:,} of them trained"
                )
            else:
                print(f"  {split:10} no conversations")
        notes = [f"{sizes['too_long']:,} too long and left out"] if sizes["too_long"] else []
        notes += [f"{sizes['duplicates']:,} with a question that was there before"] if sizes["duplicates"] else []
        notes += [f"{sizes['groups']:,} groups that share passages"] if "groups" in sizes else []
        notes += [f"{count:,} x {kind} left out" for kind, count in sizes["skipped"].items()]
        if notes:
            print(f"  note       {'; '.join(notes)}")
    if prepared.retrieval is not None:
        _report_tables(prepared.retrieval.tables)
    print("look        retrolit inspect batch RECIPE, with a recipe that names this data.yaml")
    print("next        retrolit fit -c RECIPE")


def _report_retrieval(retrieval: PreparedRetrieval) -> None:
    print(f"index       {retrieval.index_folder}")
    for line in str(Card.read(retrieval.index_folder)).splitlines():
        print(f"  {line}")
    _report_tables(retrieval.tables)


def _report_tables(found: dict[str, dict[str, Path]]) -> None:
    for split, tables in found.items():
        for corpus, folder in tables.items():
            sizes = NeighborTable(folder).manifest.sizes
            each = sizes["kept"] / max(sizes["chunks"], 1)
            print(f"neighbors   {folder}")
            print(
                f"  {corpus} {split}: {sizes['chunks']:,} chunks, {each:.1f} neighbors each; dropped {sizes['own']:,} "
                f"of own documents, {sizes['copies']:,} of copies, {sizes['near_duplicates']:,} near duplicates"
            )
            if sizes["chunks_with_too_few"]:
                print(f"  note       {sizes['chunks_with_too_few']:,} chunks have fewer than were asked for")
