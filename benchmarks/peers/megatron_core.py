"""NVIDIA's Megatron Core 0.15, the last release with Retro, in its local spec, on the CPU.

What differs: positions are the decoder's learned ones, for neighbors too, and there are none in any cross-attention;
the residual of the encoder's cross-attention is normed; a sequence is cut into chunks from its end, the first of which
may be short and has neighbors of its own; no norm follows the last layer, so that its loss falls slowly at first. Its
fusions are on: they are faster. It has no cache for Retro.

Megatron Core expects a GPU, so three of its functions are told otherwise, none of which computes anything here.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from benchmarks.peers import sizes
from benchmarks.peers.sizes import Candidate


def retro() -> Candidate:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.models.retro import RetroConfig, RetroModel, config, get_retro_decoder_block_spec
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    torch.cuda.current_device = lambda: torch.device("cpu")  # where scratch memory is made
    CudaRNGStatesTracker.fork = lambda self, name=None: nullcontext()  # only dropout, which is 0, draws numbers
    config.is_te_min_version = lambda *_: False  # asks for the version of Transformer Engine, which is not installed
    parallel_state.initialize_model_parallel()
    settings = RetroConfig(
        num_layers=sizes.LAYERS, hidden_size=sizes.WIDTH, num_attention_heads=sizes.HEADS,
        ffn_hidden_size=sizes.MLP_WIDTH, attention_dropout=0.0, hidden_dropout=0.0,
        retro_chunk_length=sizes.CHUNK, retro_num_neighbors=sizes.NEIGHBORS,
        retro_num_retrieved_chunks=sizes.RETRIEVED // sizes.CHUNK, retro_encoder_num_layers=sizes.ENCODER_LAYERS,
        retro_encoder_hidden_dropout=0.0, retro_encoder_attention_dropout=0.0, retro_split_preprocessing="98,2,0",
        bias_activation_fusion=True, bias_dropout_fusion=True, cross_entropy_loss_fusion=True,
        masked_softmax_fusion=False, use_cpu_initialization=True,
    )  # fmt: skip
    model = RetroModel(
        settings, get_retro_decoder_block_spec(settings, use_transformer_engine=False),
        vocab_size=sizes.VOCABULARY, max_sequence_length=sizes.MAX_LENGTH, position_embedding_type="learned_absolute",
        share_embeddings_and_output_weights=True,
    )  # fmt: skip

    def forward(tokens: Tensor, neighbors: Tensor, labels: Tensor | None = None) -> Tensor:
        batch, length = tokens.shape
        positions = torch.arange(length).expand(batch, -1)
        hidden = torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)  # True where attention must not look
        neighbors = neighbors.flatten(0, 2)  # (B S K, R)
        neighbor_positions = torch.arange(sizes.RETRIEVED).expand_as(neighbors)
        return model(tokens, positions, hidden, neighbors, neighbor_positions, labels=labels)

    def loss(tokens: Tensor, neighbors: Tensor) -> Tensor:
        return forward(tokens[:, :-1], neighbors, tokens[:, 1:]).mean()

    def generate(prompt: Tensor, neighbors: Tensor) -> Tensor:
        def logits(tokens: Tensor) -> Tensor:
            return forward(tokens, neighbors[:, : -(-tokens.shape[1] // sizes.CHUNK)])

        return sizes.recompute_everything(logits, prompt)

    return Candidate(model, loss, generate)
