"""What is read from the folders of runs and evaluations."""

from __future__ import annotations

import pytest

from retrolit.reports.load import load


def test_of_rows_that_are_written_twice_the_last_counts_and_torn_ones_do_not(run_folder):
    (run,), _ = load([run_folder])
    assert run.curve("train/loss") == [(10, 0.9), (20, 0.45), (30, 0.3)]
    assert run.curve("val/bits_per_byte_none") == [(15, 1.65), (30, 1.8)]
    assert run.curve("no such metric") == []


def test_answers_know_what_was_read_for_them(evaluation_folder):
    _, (evaluation,) = load([evaluation_folder])
    assert evaluation.fingerprints == {"f6"}
    assert [answer["contexts"] for answer in evaluation.answers["nq"]] == [["Ulm"], ["Ulm"]]
    assert evaluation.answers["nq"][1]["exact_match"] == 1.0


def test_folders_with_the_same_name_are_called_by_their_paths(run_folder, evaluation_folder):
    (run,), (evaluation,) = load([run_folder, run_folder, evaluation_folder])
    assert (run.name, evaluation.name) == (str(run_folder), str(evaluation_folder))
    assert load([run_folder])[0][0].name == "small"


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected the folder of a run .*got neither; make one with: retrolit fit"
    ):
        load([tmp_path])


def test_damaged_lines_are_refused_by_name(run_folder):
    (run_folder / "samples.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match=r"samples.jsonl: expected JSON lines, got something else"):
        load([run_folder])


def test_names_of_files_are_those_that_training_writes():
    from retrolit.cli import fit, report
    from retrolit.reports import load as ours
    from retrolit.training import loggers, surroundings, text_samples

    theirs = (fit.CONFIG_FILE, loggers.FILE_NAME, text_samples.FILE_NAME, surroundings.FILE_NAME, fit.MODEL_FOLDER)
    assert theirs == (ours.CONFIG, ours.METRICS, ours.SAMPLES, ours.RUN_FILE, ours.MODEL)
    assert report.LEAKAGE_FILE == ours.LEAKAGE
