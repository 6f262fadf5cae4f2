"""A virtual environment for each peer that needs one, made by pip on first use with the torch that runs here."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

REQUIREMENTS = {
    "retro-pytorch": ["retro-pytorch==0.3.9", "numpy<2", "pyarrow<20"],  # what it imports needs NumPy 1
    "megatron-core": ["megatron-core==0.15.*"],
}


def python_for(name: str, folder: Path) -> str:
    """The interpreter that runs this implementation: our own, or that of its environment in `folder`.

    Raises subprocess.CalledProcessError where pip fails.
    """
    if name not in REQUIREMENTS:
        return sys.executable
    home = folder / name
    python, finished = home / "bin" / "python", home / "installed.txt"
    wanted = [f"torch=={version('torch').split('+')[0]}", *REQUIREMENTS[name]]
    if not finished.exists() or finished.read_text().split() != wanted:
        print(f"installing {', '.join(wanted)} in {home} ...", flush=True)
        venv.create(home, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        subprocess.run(install, check=True, capture_output=True, text=True)
        finished.write_text("\n".join(wanted))
    return str(python)
