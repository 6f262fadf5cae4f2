"""Small Retros for the tests, each switch of the config away from its default at least once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from retrolit.models import GPTConfig, Retro, RetroConfig

VOCABULARY = 53
DECODER = GPTConfig(
    vocab_size=VOCABULARY, hidden_size=16, num_layers=3, num_attention_heads=2, max_position_embeddings=64
)
# The third layer stands behind two Retro layers, so that what they read can travel on to later tokens.
TINY = RetroConfig(DECODER, retro_layers=[1, 2], chunk_length=4)

NVIDIA = replace(
    TINY,
    decoder=replace(DECODER, normalization="layernorm1p", activation="swiglu", bias=False, qkv_bias=None),
    encoder_rotary=False, cross_rotary=False, mask_padding=False,
)  # fmt: skip
VARIANTS = {
    "default": TINY,
    "released": NVIDIA,
    "core": replace(NVIDIA, encoder_residual="normed"),
    "learned": replace(
        TINY, decoder=replace(DECODER, position_embedding="learned", tied_embeddings=True), cross_rotary=False
    ),
    "llama": RetroConfig(
        replace(
            DECODER, normalization="rmsnorm", activation="swiglu", bias=False, qkv_bias=None, num_query_groups=1,
            parallel_residual=True, qk_norm=True,
        ),
        retro_layers=[1, 2], chunk_length=3, num_neighbors=3, num_retrieved_chunks=1, encoder_layers=1,
    ),
    "shifted": replace(TINY, shifted_keys=True),
    "narrow": RetroConfig(
        DECODER, retro_layers=[2], chunk_length=5, num_neighbors=1, num_retrieved_chunks=3, encoder_layers=3,
        encoder_hidden_size=12, encoder_num_attention_heads=3, encoder_rotary=False,
    ),
}  # fmt: skip


def build(config: RetroConfig) -> Retro:
    """A model in eval mode all of whose weights are random and large enough to matter: no gain is 1, no bias 0."""
    model = Retro(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(0, VOCABULARY, shape)


def random_neighbors(config: RetroConfig, batch: int, length: int) -> Tensor:
    """Neighbors (B, L, K, R) of the chunks of `length` tokens."""
    chunks = -(-length // config.chunk_length)
    return random_tokens(batch, chunks, config.num_neighbors, config.retrieved_length)


def ends_of(config: RetroConfig, length: int) -> list[int]:
    """Where the chunks of `length` tokens end, counted back from the end by hand."""
    ends = [length]
    while ends[0] > config.chunk_length:
        ends.insert(0, ends[0] - config.chunk_length)
    return ends
