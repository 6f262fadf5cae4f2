"""From a model to text."""

from retrolit.generation.chat import Chat
from retrolit.generation.generator import Generation, Generator, Pieces, Prompt
from retrolit.generation.given_neighbors import GivenNeighbors
from retrolit.generation.retrieval import ChunkNeighbors, Retrieved
from retrolit.generation.sampling import SamplingConfig

__all__ = [
    "Chat",
    "ChunkNeighbors",
    "Generation",
    "Generator",
    "GivenNeighbors",
    "Pieces",
    "Prompt",
    "Retrieved",
    "SamplingConfig",
]
