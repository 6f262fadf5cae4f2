"""retrolit report leakage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrolit.cli.main import main

TEXTS = ["the river runs past the copper mill", "a violin and a lantern in the temple garden", "snow on granite"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train and test corpora that name their own split: a copy, a near copy, and a text of its own."""
    monkeypatch.chdir(tmp_path)
    near = f"{3 * TEXTS[1]}, once"
    for name, texts in (("train", [TEXTS[0], 3 * TEXTS[1]]), ("test", [TEXTS[0], near, TEXTS[2]])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("data.yaml").write_text(
        "folder: prepared\n"
        "tokens:\n"
        "  corpora:\n"
        "    old: {source: train.jsonl, split: train}\n"
        "    new: {source: test.jsonl, split: test}\n"
        "  tokenizer: {type: bytes}\n"
        "retrieval: {chunk_length: 16, embedder: {dimension: 64}}\n"
    )
    return Path("data.yaml")


def test_copies_near_duplicates_and_overlap_are_told(data, capsys):
    assert main(["report", "leakage", "-c", str(data)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "copies of test in train: 1 DOCUMENTS ON BOTH SIDES test.jsonl:1 of new ~ train.jsonl:1 of old" in shown
    assert "copies of test in validation: none" in shown
    assert "(Jaccard >= 0.8): 2 of 3" in shown
    report = json.loads(Path("prepared/leakage.json").read_text())
    assert [copy["document"] for copy in report["disjoint"]["test in train"]] == [0]
    assert [(twin["document"], twin["similarity"] == 1) for twin in report["near_duplicates"]["test"]] == [
        (0, True), (1, False)
    ]  # fmt: skip
    assert report["near_duplicates"]["validation"] == []
    chunks = sum(bin["chunks"] for bin in report["neighbor_overlap"]["test"])
    tokens = len(TEXTS[0]) + 3 * len(TEXTS[1]) + len(", once") + len(TEXTS[2]) + 3
    assert chunks == -(-tokens // 16)


def test_another_threshold_is_refused_where_it_cannot_be_kept(data, capsys):
    assert main(["report", "leakage", "-c", str(data), "--threshold", "0.2"]) == 2
    assert "threshold: expected 0.5 to 1, got 0.2" in capsys.readouterr().err
