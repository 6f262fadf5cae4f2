"""What a run was started with, compared with what it is to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def refuse_changes(section: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError naming every setting that differs, its old and its new value."""
    changes = [f"{name} was {old}, is now {new}" for name, old, new in differences(section, before, now)]
    if changes:
        raise ValueError(
            f"this run was started with other settings: {'; '.join(changes)}. "
            "Put them back to go on, or name another trainer.default_root_dir to start a new run"
        )


def differences(section: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of every setting that differs; nested ones are named with dots: model.optimizer.lr."""
    old, new = _flat(section, before), _flat(section, now)
    return [
        (name, old.get(name, "not there"), new.get(name, "not there"))
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        dot = "." if prefix else ""
        return {name: leaf for key in value for name, leaf in _flat(f"{prefix}{dot}{key}", value[key]).items()}
    return {prefix: list(value) if isinstance(value, tuple) else value}
