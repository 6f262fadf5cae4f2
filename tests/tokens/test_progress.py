"""Progress: a bar on a terminal, a line a stage elsewhere, nothing when nothing is wanted."""

from __future__ import annotations

import io
import sys

import pytest

from retrolit.tokens.progress import silent, visible


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [2_000_000, None])
def test_a_bar_on_a_terminal(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with visible("tokenizing owls", total) as advance:
        advance(1_000_000)
    assert "tokenizing owls" in terminal.getvalue()
    assert ("2.0/2.0 MB" in terminal.getvalue()) == (total is not None)


def test_a_line_when_the_stage_is_done_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with visible("tokenizing owls", 10) as advance:
        advance(5)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.startswith("tokenizing owls: 0.")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with silent("tokenizing owls", 10) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
