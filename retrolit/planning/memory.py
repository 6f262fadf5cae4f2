"""Memory of one GPU by strategy: what is stored of the model, and what a step needs beside it.

P parameters, V vocabulary, D width. Under 32-true and bf16-mixed weights, gradients and AdamW's two means have 4 bytes
each, 16 a parameter; in bf16-true 2 each. What is beside them:

    single     bf16-mixed: a bfloat16 copy of every matrix of the layers while the graph lives
    ddp        the same, and a second time all gradients: the buckets they are reduced in
    fsdp       states divided by all GPUs, bf16-mixed by FSDP2's MixedPrecisionPolicy, so that the residual stream is
               bfloat16 too; gathered in the precision of products, with the units of training/sharding.py. While
               the loss is computed: the output, with the buffer that it came in, and no layer. In the backward pass:
               two layers (one works, the next one comes), one layer's whole gradient and its float32 copy that is
               reduced and, of a Retro, whose neighbors are embedded too, the embedding and its gradient; at its end,
               when no activation is left, those and the float32 copy. A tied output is the embedding, and gathered
               for the whole step
    fsdp+tp    the same for a GPU's share of the model

Gradients are counted as held throughout, as with accumulation. Not counted: the process's CUDA context, library and
communication buffers, and the allocator's gaps; keep a tenth free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from retrolit.checkpoint.model_types import decoder_of
from retrolit.models import GPTConfig, RetroConfig
from retrolit.planning.activations import COMPUTE_BYTES, MicroBatch, activations
from retrolit.planning.size import Size, Trained

Strategy = Literal["single", "ddp", "fsdp", "fsdp+tp"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the moment when most are used."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    """Weights in lower precision, gathered layers, buckets."""
    activations: int
    """What is kept for the backward pass, and what is worked with."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations


def memory(
    config: GPTConfig | RetroConfig,
    size: Size,
    batch: MicroBatch,
    strategy: Strategy,
    *,
    gpus: int = 1,
    tensor_parallel: int = 1,
    trained: Trained = "all",
) -> Memory:
    """Of one of `gpus` GPUs under this strategy, `tensor_parallel` of which share each product under fsdp+tp.

    Under fsdp+tp the config is that of `tensor_parallel_share`; `size` is always that of the config.
    """
    state = 2 if batch.precision == "bf16-true" else 4
    read = config.decoder if trained == "decoder" and isinstance(config, RetroConfig) else config
    if strategy.startswith("fsdp") and batch.precision == "bf16-mixed":
        batch = replace(batch, precision="bf16-true")
    needed = activations(read, batch)
    c = COMPUTE_BYTES[batch.precision]
    if strategy in ("single", "ddp"):
        shards = 1
        copies = 2 * size.multiplied if batch.precision == "bf16-mixed" else 0
        buckets = state * size.trained if strategy == "ddp" else 0
        # Checkpointed layers make their copies again, one at a time, and free them.
        again = 2 * size.largest_layer if batch.checkpointed and copies else copies
        moments = [(copies + buckets, needed.at_loss), (buckets + again, needed.in_backward)]
    else:
        shards = gpus // tensor_parallel if strategy == "fsdp+tp" else gpus
        tied = decoder_of(config).tied_embeddings
        embedding = 0 if tied else size.parameters["embedding"]
        output = size.outside - embedding
        layers = 2 * c * size.largest_layer
        reading = 2 * c * embedding if read is config and isinstance(config, RetroConfig) else 0
        kept = c * output if tied else 0
        moments = [
            (c * output * (1 if tied else 2), needed.at_loss),
            (layers + (c + 4) * size.largest_layer + reading + kept, needed.in_backward),
            ((2 * c + 4) * (output if tied else embedding), 0),
        ]
    copies, working = max(moments, key=sum)
    gradients = state * size.trained
    return Memory(
        weights=-(-state * size.total // shards),
        gradients=-(-gradients // shards),
        optimizer=-(-2 * gradients // shards),
        copies=copies,
        activations=working,
    )
