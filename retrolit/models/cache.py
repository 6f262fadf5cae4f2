"""Keys and values of the columns already seen, so that generation computes each token once.

B rows (batch), T new columns, G key/value heads, C channels of a head. A column is a place in the padded batch;
a position is what the model counts: the column less the row's padding at the left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrolit.models.config import GPTConfig


class LayerCache:
    """One layer's keys and values, (B, G, max_length, C) each, filled from the left."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys
        self.values = values
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes (B, G, T, C) of the new columns, gives (B, G, length + T, C) of all columns so far."""
        start, new = self.length, keys.shape[2]
        self.keys.narrow(2, start, new).copy_(keys)
        self.values.narrow(2, start, new).copy_(values)
        self.length = start + new
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these, (kept rows,) int64."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class KVCache:
    """The memory of a generation: `model(tokens, cache=cache)` appends tokens' columns and sees all earlier ones.

    Works for a prompt in one piece, in several, and for single steps. Rows of unequal length are padded at the left
    (`left_padding`, (B,) int64 columns); padding is never attended to and positions start behind it.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        max_length: int,
        left_padding: Tensor | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        assert config.num_query_groups is not None
        assert config.head_dim is not None
        shape = (batch_size, config.num_query_groups, max_length, config.head_dim)
        self.layers = [
            LayerCache(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))
            for _ in range(config.num_layers)
        ]
        self.max_length = max_length
        # Without any padding the rows are alike, and causal attention needs no mask.
        padded = left_padding is not None and bool(left_padding.any())
        self.left_padding = left_padding.to(device) if left_padding is not None and padded else None

    @property
    def length(self) -> int:
        """Columns filled so far."""
        return self.layers[0].length

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these, (kept rows,) int64, in this order: those of a batch that are not finished."""
        for layer in self.layers:
            layer.keep(rows)
        if self.left_padding is not None:
            kept = self.left_padding[rows]
            self.left_padding = kept if kept.any() else None

    def positions(self, num_new: int) -> Tensor | None:
        """(B, T) positions of the next `num_new` columns; None where every row's are length .. length + T - 1."""
        if self.left_padding is None:
            return None
        columns = torch.arange(self.length, self.length + num_new, device=self.left_padding.device)
        return (columns - self.left_padding[:, None]).clamp(min=0)

    def mask(self, num_new: int, device: torch.device) -> Tensor | None:
        """Which columns the next `num_new` ones attend to, bool, (1 or B, 1, T, length + T).

        None where no mask is needed: plain causal attention from the first column, or one column that sees all.
        """
        if self.left_padding is None and (self.length == 0 or num_new == 1):
            return None
        end = self.length + num_new
        keys = torch.arange(end, device=device)
        queries = torch.arange(self.length, end, device=device)[:, None]
        mask = (keys <= queries)[None]  # (1, T, length + T)
        if self.left_padding is not None:
            mask = mask & (keys >= self.left_padding[:, None, None])  # (B, T, length + T)
            # A padding column sees itself: some attention kernels answer NaN to a row that sees nothing.
            mask = mask | (keys == queries)
        return mask[:, None]

    def check_room(self, num_new: int) -> None:
        """Raises ValueError when `num_new` more columns do not fit."""
        if self.length + num_new > self.max_length:
            raise ValueError(
                f"KVCache: expected at most {self.max_length} columns (max_length), got {self.length} filled and "
                f"{num_new} more; make the cache longer"
            )
