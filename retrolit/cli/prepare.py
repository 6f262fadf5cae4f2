"""Text to tokenizer and token stores."""

from __future__ import annotations

import sys

from retrolit.data.preparation import DataConfig, Prepared, prepare_share
from retrolit.storage import Manifest
from retrolit.storage.blocks import Share
from retrolit.tokens.config import TokensConfig
from retrolit.tokens.progress import visible


def prepare(folder: str, tokens: TokensConfig) -> None:
    """Make what a data.yaml describes: a tokenizer and token stores.

    What is there already is opened, what was interrupted goes on. Started on several machines with torchrun or srun, it
    divides the work among them. Usually: retrolit prepare -c data.yaml

    Args:
        folder: where the artifacts go, e.g. prepared/quickstart.
        tokens: corpora, tokenizer and splits.
    """
    share = Share.from_environment()
    prepared = prepare_share(DataConfig(folder, tokens), share, visible)
    if prepared is None:
        print(f"rank {share.rank} of {share.world}: my share of the blocks is done; rank 0 finishes", file=sys.stderr)
        return
    _report(prepared)


def _report(prepared: Prepared) -> None:
    tokens = prepared.tokens
    print(f"tokenizer   {tokens.tokenizer_folder}")
    if not Manifest.read(tokens.tokenizer_folder, "tokenizer").sizes["keeps_text"]:
        print("  note       this tokenizer changes some texts: what it decodes can differ from what it read")
    for name, manifest in tokens.manifests.items():
        sizes = manifest.sizes
        print(f"{name:11} {tokens.folders[name]}")
        for split, stores in tokens.stores.items():
            counts = sizes[split]
            if name in stores:
                print(
                    f"  {split:10} {counts['documents']:>10,} documents {counts['tokens']:>14,} tokens "
                    f"{counts['bytes'] / counts['tokens']:6.2f} bytes a token"
                )
            else:
                print(f"  {split:10} no documents")
        notes = [f"{sizes['duplicates']:,} exact duplicates"] if sizes["duplicates"] else []
        notes += [f"{count:,} x {kind} left out" for kind, count in sizes["skipped"].items()]
        if notes:
            print(f"  note       {'; '.join(notes)}")
    print(f"look        retrolit inspect documents {prepared.folder}")
    print("next        retrolit fit -c RECIPE, with a recipe that names this data.yaml")
