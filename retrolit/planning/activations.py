"""What one micro-batch keeps in memory between its forward and its backward pass.

N tokens of the micro-batch, W encoded tokens of its neighbors (N K R / M), D width, A = H C query channels, G key/value
channels, F MLP width, V vocabulary. r bytes of a number of the residual stream, c bytes of one in matrix products: 4
and 4 in float32, 4 and 2 under bf16-mixed, 2 and 2 in bf16-true. Memory is highest at one of two moments:

    loss      every layer's activations, and what the chunked loss works with: (V, D) and (rows, V) tensors
    backward  a layer's gradients in the making: of the last layer or, with the encoder, of the first Retro layer

Counted as for torch's fused attention, which keeps no (T, T) matrix. A compiled layer keeps what its products read and
put out, and makes again what lies between: of a gated MLP not the nonlinearity's output, and of the residual stream
between its halves only what was added to it, in the precision of products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from retrolit.models import GPTConfig, RetroConfig
from retrolit.models.config import GATED_ACTIVATIONS
from retrolit.models.loss import rows_per_chunk

RESIDUAL_BYTES = {"32-true": 4, "bf16-mixed": 4, "bf16-true": 2}
COMPUTE_BYTES = {"32-true": 4, "bf16-mixed": 2, "bf16-true": 2}
PRECISIONS = tuple(RESIDUAL_BYTES)


@dataclass(frozen=True)
class MicroBatch:
    """What one device works on at a time."""

    samples: int
    """Sequences of the micro-batch."""

    length: int
    """Tokens of a sequence."""

    precision: str = "bf16-mixed"
    """The trainer's."""

    checkpointed: bool = False
    """Only each layer's input is kept, and the layer computed again in the backward pass."""

    compiled: bool = False
    """By torch.compile, each layer by itself."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision: expected one of {', '.join(PRECISIONS)}; got {self.precision}")

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch (N)."""
        return self.samples * self.length


@dataclass(frozen=True)
class Activations:
    """Bytes at the two moments when memory is highest, beside weights, gradients and optimizer state."""

    at_loss: int
    """When the loss is computed, and the first gradient with it."""

    in_backward: int
    """In the backward pass of the layer that needs most."""


def activations(config: GPTConfig | RetroConfig, batch: MicroBatch) -> Activations:
    """Of a GPT, or of a Retro that reads as many neighbors as its config says."""
    return _retro(config, batch) if isinstance(config, RetroConfig) else _gpt(config, batch)


def tensor_parallel_share(config: GPTConfig | RetroConfig, ways: int) -> GPTConfig | RetroConfig:
    """The model as one device of a tensor parallel group computes it: its heads, its part of MLP and vocabulary.

    The residual stream is whole on every device. Raises ValueError where a size does not divide.
    """
    if isinstance(config, RetroConfig):
        if config.encoder_hidden_size != config.decoder.hidden_size:
            raise ValueError(
                f"tensor_parallel: expected an encoder as wide as the decoder ({config.decoder.hidden_size}), "
                f"got encoder_hidden_size {config.encoder_hidden_size}"
            )
        decoder = tensor_parallel_share(config.decoder, ways)
        assert isinstance(decoder, GPTConfig)
        names = ("encoder_num_attention_heads", "encoder_ffn_hidden_size")
        return replace(config, decoder=decoder, **{name: _part(config, name, ways) for name in names})
    names = ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size")
    return replace(config, **{name: _part(config, name, ways) for name in names})


def _part(config: GPTConfig | RetroConfig, name: str, ways: int) -> int:
    size = getattr(config, name)
    if size % ways:
        raise ValueError(f"tensor_parallel: expected a divisor of {name} ({size}), got {ways}")
    return size // ways


def _gpt(config: GPTConfig, batch: MicroBatch) -> Activations:
    tokens = batch.tokens
    layer = tokens * _layer(config, batch)
    entry = tokens * config.hidden_size * RESIDUAL_BYTES[batch.precision]
    kept = config.num_layers * (entry if batch.checkpointed else layer) + _final(config, batch)
    again = layer if batch.checkpointed else 0
    return Activations(kept + _loss(config, batch), kept + again + _layer_backward(config, tokens, batch))


def _retro(config: RetroConfig, batch: MicroBatch) -> Activations:
    decoder, encoder, tokens = config.decoder, config.encoder, batch.tokens
    r, c = RESIDUAL_BYTES[batch.precision], COMPUTE_BYTES[batch.precision]
    inside = batch
    if encoder.hidden_size != decoder.hidden_size and batch.precision == "bf16-mixed":
        inside = replace(batch, precision="bf16-true")  # what comes out of the encoder's first product is bfloat16
    read = batch.samples * (batch.length // config.chunk_length) * config.num_neighbors * config.retrieved_length
    plain, entry = tokens * _layer(decoder, batch), tokens * decoder.hidden_size * r
    cross = tokens * _queries(decoder, batch) + read * _keys(decoder, encoder.hidden_size, inside)
    encoded = read * encoder.hidden_size * RESIDUAL_BYTES[inside.precision]
    if batch.compiled:
        # Cross-attention comes between two compiled halves, so the first one's sum is kept; in the encoder it does not.
        cross += 0 if decoder.parallel_residual else tokens * decoder.hidden_size * (r - c)
    # The encoder: embedded neighbors, its layers, and the cross-attention to the chunk in the first.
    embedded = read * (decoder.hidden_size * c if encoder.hidden_size != decoder.hidden_size else 0)
    chunk = tokens * (_keys(encoder, decoder.hidden_size, batch) + (decoder.hidden_size * c if r == c else 0))
    encoder_layer = read * _layer(encoder, inside)
    reading_chunk = read * _queries(encoder, inside) + chunk
    if batch.compiled:
        reading_chunk -= read * encoder.hidden_size * (RESIDUAL_BYTES[inside.precision] - c)
    encoding = encoder.num_layers * encoder_layer + reading_chunk + embedded
    first, count = config.retro_layers[0], len(config.retro_layers)
    own = _final(decoder, batch)
    if batch.checkpointed:
        # Of a Retro layer each half's input is kept, and what the cross-attention reads; of the encoder the chunks.
        chunks, inputs = 2 * entry, encoder.num_layers * encoded + embedded
        kept = (decoder.num_layers + 3 * count) * entry + chunks + inputs + encoded + own
        last = kept + max(plain, cross)
        lowest = (first + 3) * entry + chunks + encoded + embedded + encoder_layer + reading_chunk
    else:
        kept = decoder.num_layers * plain + count * cross + encoding + encoded + own
        below = first * plain + cross + encoding + encoded
        last, lowest = kept, below
    return Activations(
        kept + _loss(decoder, batch),
        max(last + _layer_backward(decoder, tokens, batch), lowest + _layer_backward(encoder, read, inside)),
    )


def _layer(config: GPTConfig, batch: MicroBatch) -> int:
    """A token's bytes in one layer: two norms, self-attention, MLP."""
    r, c = RESIDUAL_BYTES[batch.precision], COMPUTE_BYTES[batch.precision]
    width, heads, groups = config.hidden_size, *_channels(config)
    assert config.ffn_hidden_size is not None
    gated = config.activation in GATED_ACTIVATIONS
    attention = (heads + 2 * groups + heads) * c + 4 * config.num_attention_heads  # q, k, v, output, log-sum
    if config.qk_norm:
        attention += (heads + groups) * c
    inner = (3 if batch.compiled else 4) if gated else 2
    mlp = inner * config.ffn_hidden_size * c
    between = 0 if config.parallel_residual else width * (c if batch.compiled else r)
    norms = width * r + between + 2 * width * c
    if gated and r != c and not batch.compiled:
        norms += width * c  # gate and up each take their own bfloat16 copy
    masks = 2 * width if config.hidden_dropout else 0
    return attention + mlp + norms + masks


def _queries(config: GPTConfig, batch: MicroBatch) -> int:
    """A reading token's bytes in a cross-attention: its norm, queries and output."""
    r, c = RESIDUAL_BYTES[batch.precision], COMPUTE_BYTES[batch.precision]
    heads, _ = _channels(config)
    mask = config.hidden_size if config.hidden_dropout else 0
    return config.hidden_size * (r + c) + 2 * heads * c + 4 * config.num_attention_heads + mask


def _keys(config: GPTConfig, context_size: int, batch: MicroBatch) -> int:
    """A read token's bytes in a cross-attention of these heads: its key, its value, and its lower-precision copy."""
    r, c = RESIDUAL_BYTES[batch.precision], COMPUTE_BYTES[batch.precision]
    heads, _ = _channels(config)
    return 2 * heads * c + (context_size * c if r != c else 0)


def _channels(config: GPTConfig) -> tuple[int, int]:
    """Channels of all query heads, and of all key heads."""
    assert config.head_dim is not None
    assert config.num_query_groups is not None
    return config.num_attention_heads * config.head_dim, config.num_query_groups * config.head_dim


def _final(config: GPTConfig, batch: MicroBatch) -> int:
    """The hidden states that the loss reads, and what the final norm made them of."""
    copies = 2 if config.final_norm else 1
    return copies * batch.tokens * config.hidden_size * RESIDUAL_BYTES[batch.precision]


def _loss(config: GPTConfig, batch: MicroBatch) -> int:
    """The loss at work: gradients of hidden states and output weight, logits of some rows, lower-precision copies."""
    r, c = RESIDUAL_BYTES[batch.precision], COMPUTE_BYTES[batch.precision]
    rows = min(rows_per_chunk(config.vocab_size, batch.compiled), batch.tokens)
    matrix, logits = config.vocab_size * config.hidden_size, rows * config.vocab_size
    size = batch.tokens * config.hidden_size * r + 4 * matrix + (c if batch.compiled else 4) * logits
    if c != 4:
        size += c * matrix + (0 if batch.compiled else c * logits)  # a chunk's gradient of the matrix, and of logits
    if r != c:
        size += c * matrix  # the matrix as it multiplies
    return size


def _layer_backward(config: GPTConfig, tokens: int, batch: MicroBatch) -> int:
    """Gradients on their way through the MLP, the widest part of a layer, and one of its matrices'."""
    r, c = RESIDUAL_BYTES[batch.precision], COMPUTE_BYTES[batch.precision]
    assert config.ffn_hidden_size is not None
    inner = (2 if config.activation in GATED_ACTIVATIONS else 1) * config.ffn_hidden_size
    matrix = config.hidden_size * config.ffn_hidden_size * (c if r == c else c + 4)
    return tokens * (inner * c + config.hidden_size * (r + c)) + matrix
