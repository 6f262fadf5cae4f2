"""The grid against the papers' table, and against counting."""

from __future__ import annotations

import pytest

from retrolit.models.chunk_grid import ChunkGrid


@pytest.mark.parametrize("chunk_length", [1, 2, 4, 7])
def test_positions_read_the_chunks_of_the_papers_table(chunk_length: int) -> None:
    """Position i reads chunk (i + 1) // M - 1 where the length is a multiple of M (RETRO, section 2.4)."""
    length = 4 * chunk_length
    grid = ChunkGrid.ending_at(length, chunk_length)
    for position in range(length):
        read = len(grid.ends(0, position + 1)) - 1
        assert read == (position + 1) // chunk_length - 1
        if read >= 0:
            assert grid.place(position) == (position + 1) % chunk_length


@pytest.mark.parametrize("length", range(1, 14))
def test_the_first_chunk_is_the_short_one(length: int) -> None:
    ends = list(ChunkGrid.ending_at(length, 4).ends(0, length))
    assert len(ends) == -(-length // 4)
    assert ends[-1] == length
    assert [length - end for end in ends] == list(range(4 * (len(ends) - 1), -1, -4))


def test_pieces_have_the_ends_of_the_whole() -> None:
    grid = ChunkGrid(chunk_length=5, anchor=12, spacing=5)
    whole = list(grid.ends(0, 30))
    assert whole == [2, 7, 12, 17, 22, 27]
    for cut in range(31):
        assert [*grid.ends(0, cut), *grid.ends(cut, 30)] == whole


def test_behind_the_anchor_chunks_end_more_often() -> None:
    grid = ChunkGrid(chunk_length=5, anchor=12, spacing=2)
    assert list(grid.ends(0, 12)) == [2, 7, 12]
    assert list(grid.ends(12, 19)) == [14, 16, 18]
    assert [grid.place(column) for column in range(9, 17)] == [3, 4, 0, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"the prompt's 12 tokens .* every 5 columns up to there and every 2 behind"):
        grid.ends(11, 13)
