"""From a model to text."""

from retrolit.generation.generator import Generation, Generator
from retrolit.generation.sampling import SamplingConfig

__all__ = ["Generation", "Generator", "SamplingConfig"]
