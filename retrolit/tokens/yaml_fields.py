"""What a YAML file describes, a chat template or a task, as the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any


def checked_fields(
    kind: type, content: Any, where: str, what: str, given_elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """`content`, as it was read, if it is a mapping with the fields of the dataclass `kind`: all that have no default,
    and no others.

    Raises ValueError that begins with `where` and says that `what` ("a task") was expected.
    """
    known = [item for item in fields(kind) if item.name not in given_elsewhere]
    needed = {item.name for item in known if item.default is MISSING and item.default_factory is MISSING}
    names, given = [item.name for item in known], set(content) if isinstance(content, dict) else set()
    wrong = [f"lacks {name}" for name in sorted(needed - given)]
    wrong += [f"has an unknown {name}" for name in sorted(given - set(names))]
    if wrong:
        raise ValueError(f"{where}: expected the fields of {what} ({', '.join(names)}), but it {', '.join(wrong)}")
    return content
