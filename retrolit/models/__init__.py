"""The models, in pure torch."""

from retrolit.models.cache import KVCache
from retrolit.models.config import GPTConfig, RopeScaling
from retrolit.models.gpt import GPT
from retrolit.models.loss import Loss, chunked_cross_entropy

__all__ = ["GPT", "GPTConfig", "KVCache", "Loss", "RopeScaling", "chunked_cross_entropy"]
