import json

from retrolit.training import MetricsFile


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_appended_by_every_attempt_and_readable_at_once(tmp_path):
    first = MetricsFile(tmp_path / "run")
    first.log_metrics({"train/loss": 2.5}, step=1)
    assert _rows(tmp_path / "run") == [{"step": 1, "train/loss": 2.5}]
    MetricsFile(tmp_path / "run").log_metrics({"val/loss": 2.25}, step=1)
    first.log_metrics({"train/loss": 2.0}, step=2)
    assert [row["step"] for row in _rows(tmp_path / "run")] == [1, 1, 2]


def test_a_torn_last_row_is_cut_off(tmp_path):
    MetricsFile(tmp_path).log_metrics({"train/loss": 2.5}, step=1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "train/lo')
    MetricsFile(tmp_path).log_metrics({"train/loss": 2.0}, step=2)
    assert _rows(tmp_path) == [{"step": 1, "train/loss": 2.5}, {"step": 2, "train/loss": 2.0}]


def test_numbers_that_json_does_not_know_are_written_as_text(tmp_path):
    MetricsFile(tmp_path).log_metrics({"a": float("nan"), "b": float("inf")}, step=1)
    assert _rows(tmp_path) == [{"step": 1, "a": "nan", "b": "inf"}]
