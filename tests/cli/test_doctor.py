"""The doctor's report, and the problems it names."""

from __future__ import annotations

import pytest

from retrolit.cli import doctor


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.doctor()
    out = capsys.readouterr().out
    assert "in one process: works" in out
    assert "in a worker: works" in out
    assert out.endswith("no problem found\n")


@pytest.mark.parametrize(
    ("installed", "sentence"),
    [
        ({"faiss-cpu", "faiss-gpu", *doctor.REQUIRED}, "faiss-cpu and faiss-gpu overwrite each other's files"),
        (set(doctor.REQUIRED), "faiss is missing, retrieval needs it"),
        ({"faiss-cpu", *doctor.REQUIRED} - {"rich"}, "rich is missing"),
    ],
)
def test_what_is_wrong_is_named(
    installed: set[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name in installed else None)
    monkeypatch.setattr(doctor, "_failure", lambda program: None)
    with pytest.raises(SystemExit) as stop:
        doctor.doctor()
    assert stop.value.code == 1
    assert f"problem: {sentence}" in capsys.readouterr().out


def test_a_crash_is_a_problem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "TORCH_AND_FAISS", "import os; os.abort()")
    monkeypatch.setattr(doctor, "IN_A_WORKER", "raise RuntimeError('no worker today')")
    with pytest.raises(SystemExit):
        doctor.doctor()
    out = capsys.readouterr().out
    assert "problem: torch and faiss in one process: exit code -6" in out
    assert "problem: torch and faiss in a worker: RuntimeError: no worker today" in out


def test_a_hang_is_a_problem() -> None:
    assert doctor._failure("import time; time.sleep(60)", seconds=1) == "no answer within 1 s"
