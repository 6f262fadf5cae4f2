"""The documentation of the Python that is running: about 2 MB of English that every machine has.

The help topics, and one document for each module, class (with its methods) and function of the standard library that
has a docstring. Source files are parsed and never run, so no module's side effects happen; only modules compiled in C
are imported, for they have no source to read.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from retrolit.storage import fingerprint
from retrolit.tokens.readers import BadRecord, Document

# Test suites, applications and jokes; readline changes the terminal when it is imported.
LEFT_OUT = {"test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "antigravity", "this", "readline"}
TEST_FOLDERS = {"test", "tests"}

BOUND = re.compile(r"^\(\$\w+(?:, /(?=[,)]))?(?:, )?")
"""How the signatures of functions compiled in C begin: the module or object they belong to, which nobody passes."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class PythonDocs:
    """The corpus `python-docs`, or some modules of it: `python-docs:json,argparse` (without the help topics)."""

    def __init__(self, source: str) -> None:
        self._modules = [name.strip() for name in source.partition(":")[2].split(",") if name.strip()]
        for name in self._modules:
            if name not in sys.stdlib_module_names:
                raise ValueError(f"{source}: expected names of top-level modules of the standard library, got {name!r}")
        self._done = 0

    @property
    def size(self) -> int:
        return sum(len(document.text) for document in self._documents())

    def read(self) -> Iterator[Document | BadRecord]:
        self._done = 0
        for document in self._documents():
            self._done += len(document.text)
            yield document

    def position(self) -> int:
        return self._done

    def contents(self, known: Any) -> dict[str, dict[str, Any]]:
        """The Python it comes from and a checksum; the same Python is not read again."""
        stamp = {"python": sys.version, "executable": sys.base_prefix}
        if known and all(known["python-docs"].get(key) == value for key, value in stamp.items()):
            return known
        checksum = fingerprint([list(document) for document in self._documents()])
        return {"python-docs": {**stamp, "sha256": checksum}}

    def _documents(self) -> list[Document]:
        if self._modules:
            return [document for name in self._modules for document in _documents_of(name)]
        names = sorted(sys.stdlib_module_names - LEFT_OUT)
        return [*_topics(), *(document for name in names for document in _documents_of(name))]


@cache
def _topics() -> tuple[Document, ...]:
    from pydoc_data.topics import topics

    return tuple(Document(f"help({name!r})", topics[name].strip()) for name in sorted(topics))


@cache
def _documents_of(name: str) -> tuple[Document, ...]:
    """The documents of a module or package; none when this platform lacks it."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [*sorted((library / name).rglob("*.py")), library / f"{name}.py"]
    files = [file for file in files if file.is_file()]
    if not files:
        return tuple(_inspected(name))
    return tuple(document for file in files for document in _parsed(file, library))


def _parsed(file: Path, library: Path) -> Iterator[Document]:
    """The documents of one source file."""
    parts = file.relative_to(library).with_suffix("").parts
    if TEST_FOLDERS.intersection(parts):
        return
    module = ".".join(parts).removesuffix(".__init__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(file.read_bytes())
    if text := ast.get_docstring(tree):
        yield Document(module, f"{module}\n\n{text}")
    for node in _definitions(tree.body):
        text = _class_text(module, node) if isinstance(node, ast.ClassDef) else _function_text(module, node)
        if text:
            yield Document(f"{module}.{node.name}", text)


def _definitions(body: list[ast.stmt]) -> Iterator[Definition | ast.ClassDef]:
    """The classes and functions of a body, those inside if and try among them."""
    for node in body:
        if isinstance(node, Definition | ast.ClassDef):
            yield node
        elif isinstance(node, ast.If):
            yield from _definitions(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _definitions(
                node.body + [stmt for handler in node.handlers for stmt in handler.body] + node.orelse
            )


def _function_text(prefix: str, node: Definition) -> str | None:
    text = ast.get_docstring(node)
    return f"{prefix}.{node.name}({ast.unparse(node.args)})\n\n{text}" if text else None


def _class_text(module: str, node: ast.ClassDef) -> str | None:
    """A class's docstring and below it those of its methods; None when there are none."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    head = f"class {module}.{node.name}({bases})" if bases else f"class {module}.{node.name}"
    texts = [ast.get_docstring(node)]
    for method in _definitions(node.body):
        if isinstance(method, Definition) and (text := ast.get_docstring(method)):
            texts.append(f"{method.name}({ast.unparse(method.args)})\n{textwrap.indent(text, '    ')}")
    found = [text for text in texts if text]
    return "\n\n".join([head, *found]) if found else None


def _inspected(name: str) -> Iterator[Document]:
    """The documents of a module compiled in C. Private ones are left out: a source file documents the same."""
    if name.startswith("_"):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ImportError:  # another platform's
        return
    if module.__doc__:
        yield Document(name, f"{name}\n\n{inspect.cleandoc(module.__doc__)}")
    for member, value in sorted(vars(module).items()):
        is_own = getattr(value, "__module__", name) in (name, None)
        if member.startswith("_") or not is_own or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if value.__doc__:
            signature = " ".join((getattr(value, "__text_signature__", None) or "(...)").split())
            signature = BOUND.sub("(", signature)
            yield Document(f"{name}.{member}", f"{name}.{member}{signature}\n\n{inspect.cleandoc(value.__doc__)}")
