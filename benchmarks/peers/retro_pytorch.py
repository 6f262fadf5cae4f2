"""retro-pytorch, the implementation by Phil Wang (lucidrains).

What differs: rotary positions in half of every head, beside learned ones; RMSNorm; a bias-free query, key and value; a
key and value of nothing in the chunked cross-attention; a norm and a projection after the encoder; an output layer of
its own, with a bias. It masks padding in any case, and has no cache.
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.peers import sizes
from benchmarks.peers.sizes import Candidate


def retro() -> Candidate:
    from retro_pytorch.retro_pytorch import RETRO, Attention

    model = RETRO(
        num_tokens=sizes.VOCABULARY, max_seq_len=sizes.MAX_LENGTH, enc_dim=sizes.WIDTH, dec_dim=sizes.WIDTH,
        enc_depth=sizes.ENCODER_LAYERS, enc_cross_attn_layers=(1,), dec_depth=sizes.LAYERS,
        dec_cross_attn_layers=sizes.RETRO_LAYERS, chunk_size=sizes.CHUNK, dim_head=32,
    )  # fmt: skip
    # RETRO hands its `heads` to nobody: every attention has 8. With 32 channels each these are 256, here cut into 4.
    for part in model.modules():
        if isinstance(part, Attention):
            part.heads, part.scale = sizes.HEADS, (sizes.WIDTH // sizes.HEADS) ** -0.5

    def loss(tokens: Tensor, neighbors: Tensor) -> Tensor:
        return model(tokens, neighbors, return_loss=True)

    def generate(prompt: Tensor, neighbors: Tensor) -> Tensor:
        def logits(tokens: Tensor) -> Tensor:
            return model(tokens, neighbors[:, : tokens.shape[1] // sizes.CHUNK])

        return sizes.recompute_everything(logits, prompt)

    return Candidate(model, loss, generate)
