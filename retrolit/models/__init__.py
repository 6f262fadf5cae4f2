"""The models, in pure torch."""

from retrolit.models.cache import KVCache
from retrolit.models.config import GPTConfig, RopeScaling
from retrolit.models.gpt import GPT
from retrolit.models.loss import Loss, chunked_cross_entropy
from retrolit.models.retro import Retro
from retrolit.models.retro_cache import RetroCache
from retrolit.models.retro_config import RetroConfig

__all__ = [
    "GPT",
    "GPTConfig",
    "KVCache",
    "Loss",
    "Retro",
    "RetroCache",
    "RetroConfig",
    "RopeScaling",
    "chunked_cross_entropy",
]
