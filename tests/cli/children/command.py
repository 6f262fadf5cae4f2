"""What a process that a test starts runs; importable there by name."""

import os
import sys

from retrolit.cli.main import main


def run(arguments: list[str], rank: int = 0, processes: int = 1, port: int = 0, said: str | None = None) -> None:
    """`retrolit ARGUMENTS`, one of several processes as torchrun starts them; ends with its exit code.

    What it prints goes to the file `said`, where one is named.
    """
    if said is not None:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    sys.exit(main(arguments))
