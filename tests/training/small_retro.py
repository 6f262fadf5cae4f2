"""A Retro that is trained in seconds, and neighbors for it; data and trainer are conftest's."""

from __future__ import annotations

from pathlib import Path

import torch

from retrolit import save_model
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.retrieval import NeighborConfig, RetrievalConfig

DECODER = GPTConfig(vocab_size=257, hidden_size=16, num_layers=2, num_attention_heads=2, max_position_embeddings=32)
RETRO = RetroConfig(DECODER, retro_layers=[2], chunk_length=8, encoder_layers=1)
RETRIEVAL = RetrievalConfig(chunk_length=8, neighbors=NeighborConfig(num_saved=4, num_searched=16))
"""In data whose chunks are RETRO's."""


def save_moved(config: GPTConfig | RetroConfig, folder: Path) -> GPT | Retro:
    """Writes a model whose weights are all large enough that dropout and neighbors show."""
    torch.manual_seed(7)
    model = Retro(config) if isinstance(config, RetroConfig) else GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    save_model(model, folder)
    return model
