"""The Python of the page on generation runs, on small models and a small index in the places it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retrolit.checkpoint import save_model
from retrolit.models import GPT
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import DECODER, build, prepare_index

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"


@pytest.mark.filterwarnings("ignore:.*reach beyond the 256 tokens:UserWarning")
def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(GPT(DECODER), "runs/quickstart-gpt/model", ByteTokenizer())
    save_model(build(), "runs/quickstart-retro/model", ByteTokenizer())
    Path("prepared").mkdir()
    prepare_index(Path("prepared/quickstart"))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    assert "notes.txt:" in capsys.readouterr().out
