"""retrolit report: of runs, and on leakage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

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


def test_database_only_documents_count_as_those_of_the_database(data, capsys):
    """A copy is left out when it is prepared; a near copy is told."""
    texts = [TEXTS[2], f"{3 * TEXTS[1]}, once!"]
    Path("library.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    old = "    new: {source: test.jsonl, split: test}\n"
    data.write_text(data.read_text().replace(old, old + "    library: {source: library.jsonl, database_only: true}\n"))
    assert main(["report", "leakage", "-c", str(data)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "test: 3 documents, database: 1 documents" in shown
    assert "copies of test in database: none" in shown
    assert "test.jsonl:2 of new ~ library.jsonl:2 of library" in shown


def test_another_threshold_is_refused_where_it_cannot_be_kept(data, capsys):
    assert main(["report", "leakage", "-c", str(data), "--threshold", "0.2"]) == 2
    assert "threshold: expected 0.5 to 1, got 0.2" in capsys.readouterr().err


def test_from_training_to_a_page(recipe, retrolit_process):
    """A Retro is trained and tested; the report finds every part that these write, and the index."""
    data, settings = (yaml.safe_load(Path(name).read_text()) for name in ("data.yaml", str(recipe)))
    data["retrieval"] = {"chunk_length": 8, "neighbors": {"num_saved": 4, "num_searched": 16}}
    Path("data.yaml").write_text(yaml.safe_dump(data))
    arguments = settings["model"]["init_args"]
    retro = {"decoder": arguments["config"], "retro_layers": [2], "chunk_length": 8, "encoder_layers": 1}
    settings["model"] = {"class_path": "RetroModule", "init_args": arguments | {"config": retro}}
    settings["data"]["init_args"]["num_neighbors"] = 2
    settings["trainer"]["max_steps"] = 3
    recipe.write_text(yaml.safe_dump(settings))
    assert retrolit_process("fit", "-c", recipe) == 0
    assert retrolit_process("test", "-c", "runs/small/config.yaml") == 0
    assert main(["report", "leakage", "-c", "data.yaml"]) == 0
    assert main(["report", "runs/small", "--output", "out"]) == 0
    page = Path("out/report.html").read_text()
    known = json.loads(Path("runs/small/run.json").read_text())
    for told in (
        known["machine"]["torch"], known["data"]["prepared data"][:16], known["data"]["prepared neighbors"][:16],
        known["data"]["tokenizer"][:16], "compared one by one", "leakage report of prepared",
        "gain over random neighbors", "overlap at most", "chunks whose neighbors saved most", "words.jsonl:",
        "small, after step 3",
    ):  # fmt: skip
        assert told in page, told
    assert page.count("<p class=missing>") == 1  # no tasks were evaluated


def test_a_folder_that_is_no_run_is_refused_and_the_help_tells_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "leakge"]) == 2
    assert "leakge: expected the folder of a run" in capsys.readouterr().err
    assert main(["report", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "leakage  Tell what the evaluation splits share" in shown
    assert "--output" in shown
