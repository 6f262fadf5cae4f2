"""The first stage of the command line: verbs, exit codes, and errors on one or two lines."""

from __future__ import annotations

import subprocess
import sys

import pytest

import retrolit
from retrolit.cli.main import TOOL_VERBS, TRAINER_VERBS, main


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in TRAINER_VERBS | TOOL_VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"retrolit {retrolit.__version__}\n"


def test_a_mistyped_verb_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert capsys.readouterr().err == "retrolit: no verb 'fitt'; did you mean fit?\n"


def test_an_unknown_verb_gets_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zzz"]) == 2
    assert "the verbs are fit, validate" in capsys.readouterr().err


def test_a_users_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "nothing"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("retrolit recipes: no recipe 'nothing'; the recipes are ")
    assert "Traceback" not in err


def test_debugging_shows_where_a_mistake_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROLIT_DEBUG", "1")
    with pytest.raises(ValueError, match="no recipe 'nothing'"):
        main(["recipes", "show", "nothing"])


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from retrolit.cli.main import main; main(['--help']); "
        "heavy = {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0


def test_python_m_retrolit_is_the_console_script() -> None:
    done = subprocess.run([sys.executable, "-m", "retrolit", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"retrolit {retrolit.__version__}\n"


def test_public_names_are_found_on_first_use() -> None:
    for name in retrolit.__all__:
        assert getattr(retrolit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = retrolit.nothing
