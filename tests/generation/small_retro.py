"""A small Retro over bytes whose text depends much on its neighbors, and a small index to retrieve from."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from retrolit.models import GPTConfig, Retro, RetroConfig
from retrolit.retrieval import EmbedderConfig, NeighborConfig, RetrievalConfig, prepare_retrieval
from retrolit.tokens.prepare import CorpusConfig, TokenizerConfig, TokensConfig, prepare_tokens

DECODER = GPTConfig(vocab_size=257, hidden_size=32, num_layers=3, num_attention_heads=4, max_position_embeddings=256)
WORDS = ["river", "copper", "violin", "harbor", "meadow", "falcon", "granite", "pepper", "saddle", "winter", "anchor"]


def build(chunk_length: int = 8) -> Retro:
    """In eval mode, with weights large enough for the next token to depend on everything before it."""
    model = Retro(RetroConfig(DECODER, retro_layers=[2, 3], chunk_length=chunk_length)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def prepare_index(folder: Path, chunk_length: int = 8) -> Path:
    """Thirty documents of a few words each, as bytes; where the index is comes back."""
    draw = random.Random(1)
    folder.mkdir()
    text = "\n\n".join(" ".join(draw.choices(draw.sample(WORDS, 4), k=draw.randint(4, 12))) for _ in range(30))
    (folder / "notes.txt").write_text(text)
    corpora = {"notes": CorpusConfig(str(folder / "notes.txt"), separator="")}
    config = TokensConfig(corpora, TokenizerConfig("bytes"), {"train": 1.0})
    tokens = prepare_tokens(config, folder, processes=1)
    retrieval = RetrievalConfig(chunk_length, embedder=EmbedderConfig(dimension=32), neighbors=NeighborConfig(4, 8))
    return prepare_retrieval(retrieval, tokens, folder).index_folder
