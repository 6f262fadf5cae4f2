"""A random order that is computed, not stored: position -> number, for any size, in constant memory."""

from __future__ import annotations

import hashlib

NUM_ROUNDS = 6


class SeededOrder:
    """A permutation of range(size), a pure function of the seeds: `order[position]` is the number that comes then.

    A Feistel network permutes the next larger power of four; what falls outside the range is sent through again until
    it falls inside (cycle walking, on average less than four passes). Unlike a shuffled array it costs nothing to
    start in the middle, and nothing to hold for 10^9 samples.
    """

    def __init__(self, size: int, *seeds: int) -> None:
        assert size > 0
        self.size = size
        self.half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        digest = hashlib.blake2b(repr(seeds).encode(), digest_size=8 * NUM_ROUNDS).digest()
        self.keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(NUM_ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} of an order of {self.size}")
        number = self._permute(position)
        while number >= self.size:
            number = self._permute(number)
        return number

    def _permute(self, number: int) -> int:
        low_mask = (1 << self.half_bits) - 1
        left, right = number >> self.half_bits, number & low_mask
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & low_mask)
        return left << self.half_bits | right


def _mix(value: int) -> int:
    """64 bits in, 64 well-stirred bits out (the finalizer of SplitMix64)."""
    mask = (1 << 64) - 1
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return value ^ value >> 31
