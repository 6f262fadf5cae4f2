"""The report as a page and as Markdown: whole, safe to open, and honest about what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from retrolit.reports import write_report
from retrolit.reports.report import HTML, MARKDOWN
from retrolit.reports.tables import token_table


class Parts(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.lasttag != "style":
            self.text += data


@pytest.fixture
def page(run_folder, evaluation_folder, tmp_path) -> str:
    write_report([run_folder, evaluation_folder], tmp_path / "out")
    return (tmp_path / "out" / HTML).read_text()


def test_all_parts_of_a_run_are_there(page):
    parts = Parts(page)
    for told in (
        "Retro layers", "[2]", "30 of 30", "gain over no neighbors", "gain over the GPT", "LEAKAGE: 1 of",
        "overlap at most", "in a run of 4-7", "4.5 bits saved: chunk 3, words.jsonl:1", "2.0 bits lost", "38.9",
        "50.00 (2/9)", "neighbor   wiki:12 (read from token 64)", "passage    Ulm",
        "small, after step 30, its decoder alone", "where a step's time goes", "12.5%",
    ):  # fmt: skip
        assert told in parts.text, told
    # Two while training, three gains, two of speed, two of controls, two of overlap.
    assert parts.tags.count("svg") == 11
    assert "mark" in parts.tags


def test_the_page_loads_nothing_and_runs_nothing(page):
    """The texts in the run try: a script and a picture from elsewhere."""
    parts = Parts(page)
    assert not {"script", "img", "link", "iframe", "object", "base"} & set(parts.tags)
    links = [value for name, value in parts.attributes if name in ("href", "src", "srcset", "data", "action")]
    assert links
    assert all(value is not None and value.startswith("#") for value in links)
    assert not [name for name, _ in parts.attributes if name.startswith("on")]
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert not re.search(r"url\(|@import|http", style)
    assert "default-src 'none'" in page
    assert "<script>alert('&')</script> | ```<img src=http://nowhere.example/x.png>" in parts.text  # as text


def test_dark_and_light_name_the_same_colours(page):
    light, dark = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    names = [re.findall(r"--(\w+):", colours) for colours in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\(--(\w+)\)", page)) == set(names[0])


def test_markdown_has_the_same_and_no_html(run_folder, evaluation_folder, tmp_path):
    paths = write_report([run_folder, evaluation_folder], tmp_path)
    assert paths == [tmp_path / HTML, tmp_path / MARKDOWN]
    text = paths[1].read_text()
    assert "| 10 | 0.9 |" in text  # the curve as a table
    assert "| NQ | EM | 50.00 (2/9) |" in text
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "alert" in outside
    assert not re.search(r"(?<!\\)[<>]", outside)
    tables = re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/bare").mkdir(parents=True)
    Path("runs/bare/metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": 2.0}) + "\n")
    paths = write_report(["runs/bare"])
    assert paths == [Path("runs/bare").resolve() / HTML, Path("runs/bare").resolve() / MARKDOWN]
    text = Parts(paths[0].read_text()).text
    for told in (
        "bare: there is no run.json", "bare: there is no config.yaml", "bare: not validated yet",
        "No validation with neighbors is logged", "No speed is logged", "The settings name no prepared text",
        "bare: not evaluated; make it with: retrolit test -c runs/bare/config.yaml",
        "retrolit evaluate runs/bare/model --data FOLDER --output evaluations/bare", "bare: no samples",
    ):  # fmt: skip
        assert told in text, told
    Path("runs/bare/metrics.jsonl").write_text("")
    write_report(["runs/bare"])
    assert "bare: no step is logged in metrics.jsonl" in paths[0].read_text()


def test_a_run_on_conversations_is_not_asked_for_documents(tmp_path):
    settings = "{data: {class_path: retrolit.training.InstructionData, init_args: {data: {folder: prepared}}}}"
    (tmp_path / "config.yaml").write_text(settings)
    text = Parts(write_report([tmp_path])[0].read_text()).text
    assert "tuned on conversations, which are not evaluated by documents" in text
    assert "retrolit report leakage" not in text
    assert "held-out replies" not in text


def test_held_out_replies_are_shown_as_they_were_tested(tmp_path):
    reads = {"test/bits_per_byte": 0.75, "test/bits_per_byte_none": 1.25, "test/bits_per_byte_random": 1.5}
    for name, row in (("retro", reads), ("gpt", {"test/bits_per_byte": 1.125})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("data: {class_path: retrolit.training.InstructionData}")
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 0} | row) + "\n")
    _, page = write_report([tmp_path / "retro", tmp_path / "gpt"])
    rows = ["| retro | retrieved | 0.7500 |  |", "|  | none | 1.2500 | 0.5000 |", "|  | random | 1.5000 | 0.7500 |",
            "| gpt | nothing | 1.1250 |  |"]  # fmt: skip
    assert "\n".join(rows) in page.read_text()


def test_scores_that_nobody_published_have_no_columns(evaluation_folder):
    content = json.loads((evaluation_folder / "results.json").read_text())
    assert "published: arXiv" in write_report([evaluation_folder])[1].read_text()
    content["tasks"]["nq"]["published"] = {}
    (evaluation_folder / "results.json").write_text(json.dumps(content))
    text = write_report([evaluation_folder])[1].read_text()
    assert "| task | score | small (runs/small/model) |\n" in text
    assert "published" not in text


@pytest.mark.parametrize(("interval", "shown"), [([0.1, 0.3], "40.0%"), ([-0.1, 0.3], "-"), (None, "-")])
def test_a_gain_that_may_be_none_has_no_shares(interval, shown):
    part = {"tokens": 5, "bits_per_byte": {"none": 2.0, "retrieved": 1.8}, "gain": {"none": 0.2},
            "share_of_gain": {"none": 0.4}}  # fmt: skip
    results = {"tokens": 10, "gain_interval": {"none": interval}, "in_neighbors": {"in": part}, "runs": {"1": part}}
    table = token_table(results)
    assert [row[-1] for row in table.rows] == [shown, shown]
    assert bool(table.caption) == (shown == "-")


def test_several_runs_are_told_side_by_side_in_the_folder_of_all(run_folder, tmp_path):
    other = run_folder.with_name("other")
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"step": 5, "train/loss": 1.0}\n')
    html, _ = write_report([run_folder, other])
    assert html == run_folder.parent.resolve() / HTML
    text = Parts(html.read_text()).text
    assert "Report on small, other" in text
    assert "other, training" in text


def test_the_lines_of_an_answer_stand_below_each_other(evaluation_folder):
    path = evaluation_folder / "nq" / "scores.jsonl"
    path.write_text(path.read_text().replace('"Bo"', '"Bo\\nand Mia"'))
    assert "reference  Bo\n           and Mia\n" in write_report([evaluation_folder])[1].read_text()


def test_an_evaluation_alone_has_a_report(evaluation_folder):
    html, _ = write_report([evaluation_folder])
    text = Parts(html.read_text()).text
    assert "What was run" not in text
    assert "small (runs/small/model)" in text
