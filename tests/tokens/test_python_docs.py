"""The built-in corpus: the documentation of the Python that is running."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys

import pytest

from retrolit.tokens.config import CorpusConfig
from retrolit.tokens.corpus import open_corpus
from retrolit.tokens.python_docs import PythonDocs


def test_all_of_it_is_two_megabytes_read_without_running_modules() -> None:
    """In a process of its own: what is read is not imported, and nothing is printed or opened."""
    program = """
import sys
from retrolit.tokens.config import CorpusConfig
from retrolit.tokens.corpus import open_corpus
corpus = open_corpus(CorpusConfig("python-docs"))
before = set(sys.modules)
found = list(corpus.read())
assert sum(len(document.text) for document in found) == corpus.size == corpus.position()
import json
print(json.dumps({"size": corpus.size, "sources": [document.source for document in found],
                  "imported": sorted(set(sys.modules) - before)}))
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert runs[0].stderr == ""
    assert runs[0].stdout == runs[1].stdout
    result = json.loads(runs[0].stdout)
    assert 1_500_000 < result["size"] < 5_000_000
    assert len(set(result["sources"])) > 2000
    assert {"help('if')", "json.dumps", "argparse.ArgumentParser", "math.hypot"} <= set(result["sources"])
    assert not {"tkinter", "turtle", "antigravity", "this", "idlelib", "test", "webbrowser"} & set(result["imported"])


def test_some_modules_by_name() -> None:
    corpus = open_corpus(CorpusConfig("python-docs:json, textwrap"))
    found = {document.source: document.text for document in corpus.read()}
    assert found["json.dumps"].startswith("json.dumps(obj, *, skipkeys=False")
    assert json.dumps.__doc__ is not None
    assert json.dumps.__doc__.split()[:4] == found["json.dumps"].split("\n\n")[1].split()[:4]
    assert found["textwrap.TextWrapper"].startswith("class textwrap.TextWrapper\n\n")
    assert "\n\nwrap(self, text)\n    wrap(text : string)" in found["textwrap.TextWrapper"]
    with pytest.raises(ValueError, match="expected names of top-level modules of the standard library, got 'numpy'"):
        open_corpus(CorpusConfig("python-docs:json,numpy"))


def test_functions_in_c_are_told_as_they_are_called() -> None:
    documents = PythonDocs("python-docs:math,builtins,gc")._documents()
    titles = {document.source: document.text.partition("\n\n")[0] for document in documents}
    assert titles["math.sinh"] == "math.sinh(x, /)"
    assert titles["builtins.globals"] == "builtins.globals()"
    assert titles["builtins.compile"].startswith(
        "builtins.compile(source, filename, mode, flags=0, dont_inherit=False,"
    )
    compared = 0
    for source, title in titles.items():
        assert "$" not in title
        assert "\n" not in title
        module, _, name = source.partition(".")
        if module != "builtins" and name and not title.endswith("(...)"):
            value = getattr(importlib.import_module(module), name)
            assert title == f"{source}{inspect.signature(value)}"
            compared += 1
    assert compared > 50


def test_the_same_python_is_not_read_again() -> None:
    corpus = open_corpus(CorpusConfig("python-docs:json"))
    contents = corpus.contents(None)
    trusted = {"python-docs": {**contents["python-docs"], "sha256": "kept"}}
    assert corpus.contents(trusted) == trusted
    other_python = {"python-docs": {**trusted["python-docs"], "python": "2.7"}}
    assert corpus.contents(other_python) == contents
