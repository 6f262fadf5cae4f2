"""What a process that a test starts runs; importable there by name."""

import sys

from retrolit.cli.main import main


def run(arguments: list[str]) -> None:
    """`retrolit ARGUMENTS`; the process ends with its exit code."""
    sys.exit(main(arguments))
