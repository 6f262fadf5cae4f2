"""The models, in pure torch."""

from retrolit.models.config import GPTConfig, RopeScaling

__all__ = ["GPTConfig", "RopeScaling"]
