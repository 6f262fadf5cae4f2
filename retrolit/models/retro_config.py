"""What a Retro is made of: a GPT, the layers that read neighbors, and the encoder they read them through."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args

from retrolit.models.config import GPTConfig, check_choice, check_positive

EncoderResidual = Literal["unnormed", "normed"]
CrossAttentionInit = Literal["normal", "zero", "copying"]


def default_retro_layers(num_layers: int) -> list[int]:
    """The papers' choice: every third layer from the 6th, or from the 9th in models of more than 15 layers."""
    return list(range(6 if num_layers <= 15 else 9, num_layers + 1, 3))


@dataclass
class RetroConfig:
    """Sizes and switches of a Retro.

    The defaults are those of models trained here. NVIDIA's released models have no positions in encoder and
    cross-attention and attend to padding: encoder_rotary, cross_rotary and mask_padding are False for them.
    """

    decoder: GPTConfig = None  # pyright: ignore[reportAssignmentType]
    """The GPT that Retro gives neighbors to; in a recipe with `retrofit_from` it is that GPT's when not given."""

    retro_layers: list[int] = field(default_factory=list)
    """Decoder layers with cross-attention, counted from 1; when empty every third from 6, or from 9 above 15 layers."""

    chunk_length: int = 64
    """Tokens of a chunk (M), for each of which neighbors are retrieved."""

    num_neighbors: int = 2
    """Neighbors of a chunk (K) the model is trained with; a forward pass takes any number."""

    num_retrieved_chunks: int = 2
    """Chunks of a neighbor: the one that was found and its continuation. A neighbor has R = this x M tokens."""

    encoder_layers: int = 2
    """Layers of the neighbor encoder."""

    encoder_hidden_size: int | None = None
    """Width of the encoder; the decoder's when not given. It reads K x R / M tokens for each one of the decoder's."""

    encoder_num_attention_heads: int | None = None
    """Heads of the encoder; the decoder's when not given and equally wide, else as many as keep their size."""

    encoder_ffn_hidden_size: int | None = None
    """Width of the encoder's MLP; the decoder's when not given and equally wide, else GPTConfig's rule."""

    encoder_attention_dropout: float = 0.0
    """Dropout on the encoder's self-attention probabilities (NVIDIA trained with 0.1)."""

    encoder_hidden_dropout: float = 0.0
    """Dropout on what each sublayer of the encoder adds to its residual stream (NVIDIA trained with 0.1)."""

    encoder_residual: EncoderResidual = "unnormed"
    """What the encoder's cross-attention is added to: the residual stream (unnormed: the papers, NVIDIA's released
    weights) or its norm (normed: Megatron Core)."""

    encoder_rotary: bool = True
    """Rotary positions in the encoder: of tokens in their neighbor, and in the chunk they are compared with."""

    cross_rotary: bool = True
    """Rotary positions in the chunked cross-attention: of the query after its chunk, of the key in its neighbor."""

    mask_padding: bool = True
    """Padding of neighbors and of a short first chunk is never attended to. When False, it is, as NVIDIA does, but a
    neighbor that is nothing but padding is still left out."""

    shifted_keys: bool = False
    """A neighbor's token is found by the one before it, so that one layer can look for its own token and read what
    followed (Olsson et al. 2022 smear keys so). No checkpoint of NVIDIA's has it."""

    cross_attention_init: CrossAttentionInit = "normal"
    """How the chunked cross-attention begins. normal: as every weight; zero: it adds nothing, so that a retro-fitted
    GPT is at first the GPT; copying: a token finds its like and says it (models/copying.py)."""

    def __post_init__(self) -> None:
        if isinstance(self.decoder, dict):
            self.decoder = GPTConfig.from_dict(self.decoder)
        check_positive(self, "chunk_length", "num_neighbors", "num_retrieved_chunks", "encoder_layers")
        check_choice(self, "encoder_residual", get_args(EncoderResidual))
        check_choice(self, "cross_attention_init", get_args(CrossAttentionInit))
        for name in ("encoder_attention_dropout", "encoder_hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"RetroConfig.{name}: expected at least 0 and below 1, got {getattr(self, name)}")
        if self.decoder is not None:
            self._fit_to_decoder()

    def _fit_to_decoder(self) -> None:
        num_layers = self.decoder.num_layers
        if not self.retro_layers:
            self.retro_layers = default_retro_layers(num_layers)
            if not self.retro_layers:
                raise ValueError(
                    f"RetroConfig.retro_layers: the default needs a decoder of at least 6 layers, this one has "
                    f"{num_layers}; name the layers, for example [{num_layers}]"
                )
        if sorted(set(self.retro_layers)) != list(self.retro_layers) or not all(
            1 <= layer <= num_layers for layer in self.retro_layers
        ):
            raise ValueError(
                f"RetroConfig.retro_layers: expected ascending numbers from 1 to num_layers ({num_layers}), "
                f"got {self.retro_layers}"
            )
        if self.cross_rotary and (self.decoder.rotary_dim < 2 or self.decoder.rotary_dim % 2):
            raise ValueError(
                f"RetroConfig.cross_rotary: expected an even number of rotating channels, got "
                f"{self.decoder.rotary_dim} of the decoder's head_dim {self.decoder.head_dim}; change rotary_percent"
            )
        self.encoder_hidden_size = self.encoder_hidden_size or self.decoder.hidden_size
        if self.cross_attention_init == "copying" and self.encoder_hidden_size != self.decoder.hidden_size:
            raise ValueError(
                f"RetroConfig.cross_attention_init: copying needs an encoder as wide as the decoder, "
                f"{self.decoder.hidden_size}, got encoder_hidden_size {self.encoder_hidden_size}"
            )
        if self.encoder_hidden_size == self.decoder.hidden_size:
            self.encoder_num_attention_heads = self.encoder_num_attention_heads or self.decoder.num_attention_heads
            self.encoder_ffn_hidden_size = self.encoder_ffn_hidden_size or self.decoder.ffn_hidden_size
        elif self.encoder_num_attention_heads is None:
            assert self.decoder.head_dim is not None
            self.encoder_num_attention_heads = max(1, self.encoder_hidden_size // self.decoder.head_dim)
        try:  # GPTConfig checks the rest, and knows the MLP's width when it is not given
            self.encoder_ffn_hidden_size = self.encoder.ffn_hidden_size
        except ValueError as error:
            raise ValueError(f"RetroConfig, the encoder's part: {error}") from error

    @property
    def retrieved_length(self) -> int:
        """Tokens of a neighbor (R)."""
        return self.num_retrieved_chunks * self.chunk_length

    @property
    def encoder(self) -> GPTConfig:
        """The layers of the encoder, as a GPT's: the decoder's switches, every head with its own key and value."""
        decoder = self.decoder
        assert self.encoder_hidden_size is not None
        assert self.encoder_num_attention_heads is not None
        same_heads = (self.encoder_hidden_size, self.encoder_num_attention_heads) == (
            decoder.hidden_size,
            decoder.num_attention_heads,
        )
        return replace(
            decoder,
            hidden_size=self.encoder_hidden_size,
            num_layers=self.encoder_layers,
            num_attention_heads=self.encoder_num_attention_heads,
            num_query_groups=None,
            head_dim=decoder.head_dim if same_heads else None,
            ffn_hidden_size=self.encoder_ffn_hidden_size,
            max_position_embeddings=self.retrieved_length,
            position_embedding="rope" if self.encoder_rotary else "none",
            rope_scaling=None,
            parallel_residual=False,
            attention_dropout=self.encoder_attention_dropout,
            hidden_dropout=self.encoder_hidden_dropout,
        )

    @classmethod
    def from_dict(cls, values: dict) -> RetroConfig:
        """The config with these field values, the decoder's nested; names that are no field raise ValueError."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"RetroConfig: unknown {', '.join(unknown)}; the fields are {', '.join(known)}")
        return cls(**values)
