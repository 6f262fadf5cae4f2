"""What turns chunks into vectors: the protocol every embedder follows, and how a saved one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from retrolit.storage import Manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retrolit.tokens import Tokenizer

KIND = "embedder"
"""The kind of the manifest in a saved embedder's folder; its setting `type` says which embedder it is."""


@runtime_checkable
class Embedder(Protocol):
    """Chunks to vectors whose inner product says how alike two chunks are.

    Rows have length 1, so the inner product is the cosine; a chunk in which the embedder sees nothing (no tokens, only
    spaces) gets a row of zeros. The same chunk gives the same row in whatever company it is embedded.
    """

    @property
    def dimension(self) -> int:
        """Width of a row."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits; two embedders with the same one give the same vectors."""
        ...

    @property
    def threads(self) -> int:
        """How many threads gain by embedding at once; 1 where one call keeps all cores busy."""
        ...

    def embed(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, dimension) of chunks: tokens (n, M) of which the first lengths (n,) of each row count."""
        ...

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (n, dimension) of texts, comparable with those of chunks."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes what `load_embedder(folder, tokenizer)` reads."""
        ...


def load_embedder(folder: str | Path, tokenizer: Tokenizer) -> Embedder:
    """The embedder saved in `folder`, for chunks of this tokenizer.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it was made for another tokenizer, its files are damaged, or it is of a type unknown here.
    """
    manifest = Manifest.read(folder, KIND)
    manifest.verify(folder)
    if manifest.inputs["tokenizer"] != tokenizer.fingerprint:
        raise ValueError(
            f"{folder}: tokenizer: expected the one with fingerprint {manifest.inputs['tokenizer'][:12]}, which the "
            f"embedder was made for, got {tokenizer.fingerprint[:12]}; use the tokenizer of the retrieval database"
        )
    type = manifest.settings["type"]
    if type == "lexical":
        from retrolit.retrieval.lexical import LexicalEmbedder

        return LexicalEmbedder.load(folder, tokenizer)
    if type == "encoder":
        from retrolit.retrieval.encoder import EncoderEmbedder

        return EncoderEmbedder.load(folder, tokenizer)
    raise ValueError(f"{folder}: type: expected lexical or encoder, got {type!r}")
