"""InstructRetro's own account of what retrieval costs (arXiv 2310.07713, its table of training costs)."""

from __future__ import annotations

from dataclasses import dataclass

CONTINUED_TOKENS = 100e9
"""Of retro-fitting, and of the GPT that goes on beside it."""

PRETRAINING_TOKENS = 1.1e12
"""Of the GPT before."""

A100_FLOPS = 312e12


@dataclass(frozen=True)
class Account:
    """GPU hours on A100s, for the 100 billion tokens."""

    gpt_hours: int
    retro_hours: int

    @property
    def overhead(self) -> float:
        """What the Retro costs more than its GPT on the same tokens, as a share."""
        return self.retro_hours / self.gpt_hours - 1

    @property
    def overall(self) -> float:
        """The same over all 1.2 trillion tokens, the GPT's pretraining included, in which nothing is retrieved."""
        return self.overhead * CONTINUED_TOKENS / (PRETRAINING_TOKENS + CONTINUED_TOKENS)

    def mfu(self, flops_per_token: float, *, retro: bool) -> float:
        """The share of an A100's peak that these hours amount to, for a model of so many FLOPs a token."""
        hours = self.retro_hours if retro else self.gpt_hours
        return flops_per_token * CONTINUED_TOKENS / (hours * 3600 * A100_FLOPS)


ACCOUNTS = {
    "843m": Account(1408, 1920),
    "2b": Account(3226, 4096),
    "8b": Account(12698, 17325),
    "22b": Account(37888, 52152),
    "43b": Account(53329, 69995),
}
"""By the size of the GPT; the last is called 48b as a Retro."""
