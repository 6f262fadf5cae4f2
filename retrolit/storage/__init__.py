"""Files that are whole or not there, manifests, and resumable blocks of work."""

from retrolit.storage.blocks import Share, run_blocks
from retrolit.storage.files import (
    Damaged,
    atomic_folder,
    atomic_write,
    lock,
    read_json,
    rename_folder,
    sha256_file,
    write_json,
)
from retrolit.storage.manifest import Manifest, fingerprint, set_aside_damaged

__all__ = [
    "Damaged",
    "Manifest",
    "Share",
    "atomic_folder",
    "atomic_write",
    "fingerprint",
    "lock",
    "read_json",
    "rename_folder",
    "run_blocks",
    "set_aside_damaged",
    "sha256_file",
    "write_json",
]
