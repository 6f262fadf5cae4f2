"""The Python of the pages that name models runs, on small models and a small index in the places they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retrolit.checkpoint import save_model
from retrolit.models import GPT
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import DECODER, build, prepare_index

ROOT = Path(__file__).parents[2]


def python_of(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore:.*reach beyond the 256 tokens:UserWarning")
def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(GPT(DECODER), "runs/quickstart-gpt/model", ByteTokenizer())
    save_model(build(), "runs/quickstart-retro/model", ByteTokenizer())
    Path("prepared").mkdir()
    prepare_index(Path("prepared/quickstart"))
    blocks = python_of("docs/generation.md")
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    assert "notes.txt:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "folder"),
    [("README.md", "quickstart/runs/quickstart-gpt/model"), ("docs/conversations.md", "runs/quickstart-retro/model")],
)
def test_python_that_names_one_model_runs(
    page: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(GPT(DECODER), folder, ByteTokenizer())
    (block,) = python_of(page)
    assert folder in block
    exec(block, {})
