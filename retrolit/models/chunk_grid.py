"""The law of chunked cross-attention: where chunks end, and which tokens read a chunk's neighbors.

A column is a token's place in the sequence, counted from 0; M is the chunk length. A chunk that ends at column e holds
columns e - M .. e - 1. Its neighbors are known once its last token is, so they are read from that token on, up to the
one before the next chunk's last: columns e - 1 .. e + M - 2 (RETRO, section 2.4, equation 3). For M = 4 and 8 tokens:

    column              0  1  2 | 3 | 4  5  6 | 7 | (8  9 ...)
    belongs to chunk    0  0  0 | 0 | 1  1  1 | 1 |
    reads neighbors of  -  -  - | 0 | 0  0  0 | 1 |  1  1
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkGrid:
    """Chunks that tile a sequence backwards from `anchor`, where one ends, so that the first chunk may be short.

    Behind the anchor, where generation goes on, a chunk ends every `spacing` columns: M, or fewer, and then each new
    chunk is still the last M columns.
    """

    chunk_length: int
    anchor: int
    spacing: int

    @classmethod
    def ending_at(cls, length: int, chunk_length: int) -> ChunkGrid:
        """The grid of a whole sequence of `length` tokens: its last chunk ends where the sequence does."""
        return cls(chunk_length, anchor=length, spacing=chunk_length)

    def step(self, start: int) -> int:
        """Columns from one chunk's end to the next, at and behind column `start`."""
        return self.chunk_length if start < self.anchor else self.spacing

    def ends(self, start: int, stop: int) -> range:
        """The columns e at which chunks end whose last token, e - 1, is one of start .. stop - 1.

        Raises ValueError where the anchor lies between and the spacing changes there.
        """
        if start < self.anchor < stop and self.spacing != self.chunk_length:
            raise ValueError(
                f"tokens: expected the prompt's {self.anchor} tokens and those behind it in separate calls, because "
                f"chunks end every {self.chunk_length} columns up to there and every {self.spacing} behind, "
                f"got columns {start} to {stop - 1}"
            )
        step = self.step(start)
        return range(start + 1 + (self.anchor - start - 1) % step, stop + 1, step)

    def place(self, column: int) -> int:
        """Which of its chunk's readers a column is: 0 the chunk's own last token, at most `step` - 1."""
        return (column + 1 - self.anchor) % self.step(column)
