"""Hugging Face's GPT-2, the decoder alone, generating with its KV cache: what a model without retrieval takes."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers import sizes
from benchmarks.peers.sizes import Candidate


def with_generate() -> Candidate:
    """By the library's own `generate`."""
    model = _build()

    def generate(prompt: Tensor, neighbors: Tensor) -> Tensor:
        return model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=sizes.NEW, do_sample=False, pad_token_id=0
        )

    return Candidate(model, generate=generate)


def with_a_loop() -> Candidate:
    """By a bare loop around the model and its cache, which is faster than `generate`."""
    model = _build()

    def generate(prompt: Tensor, neighbors: Tensor) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
        tokens, new = prompt, prompt
        for _ in range(sizes.NEW):
            new = model(new, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens

    return Candidate(model, generate=generate)


def _build():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=sizes.VOCABULARY, n_embd=sizes.WIDTH, n_layer=sizes.LAYERS, n_head=sizes.HEADS,
        n_inner=sizes.MLP_WIDTH, n_positions=sizes.MAX_LENGTH, activation_function="gelu_pytorch_tanh",
        attn_implementation="sdpa", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)
