"""The Python of the pages runs, every block of a page in order, and the messages they explain are said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["extending.md", "models.md", "neighbors.md", "retrieval.md", "retro.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    exec("\n".join(blocks), {})


def test_the_messages_that_are_explained_are_said() -> None:
    package = " ".join(path.read_text(encoding="utf-8") for path in sorted((DOCS.parent / "retrolit").rglob("*.py")))
    said = " ".join(re.sub(r'"\s*\n\s*f?"', "", package).split())
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        text
        for head in re.findall(r"^\*\*(.*?)\*\*", page, re.DOTALL | re.MULTILINE)
        for text in re.findall(r"`(.*?)`", head, re.DOTALL)
    ]
    parts = [" ".join(part.split()).strip(" ;,") for text in quoted for part in text.split("...")]
    parts = [part for part in parts if len(part) > 3]
    assert len(parts) > 8
    assert [part for part in parts if part not in said and part.removeprefix("retrolit ") not in said] == []
