"""The verb `chat`: messages from a pipe or a terminal, replies and what was retrieved for them."""

from __future__ import annotations

import builtins
import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from retrolit.checkpoint import load_model, save_model
from retrolit.cli.main import main
from retrolit.generation import Generator, SamplingConfig
from retrolit.models import GPT
from retrolit.retrieval import LiveRetriever
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import DECODER, build, prepare_index

OPTIONS = ["--max_new_tokens", "9", "--seed", "4"]
SAMPLING = SamplingConfig(max_new_tokens=9, seed=4, stop=["\n\nUser:"])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_index(tmp_path_factory.mktemp("index") / "prepared")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(GPT(replace(DECODER)), tmp_path / "gpt", ByteTokenizer())
    save_model(build(), tmp_path / "retro", ByteTokenizer())
    return tmp_path


def conversation(generator: Generator, *messages: str) -> list[str]:
    """The replies to these messages, one after the other."""
    said, replies = "", []
    for message in messages:
        said += f"User: {message}\n\nAssistant:"
        replies.append(generator.generate([said], SAMPLING)[0].text)
        said += f"{replies[-1]}\n\n"
    return replies


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_piped_conversation(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "Hello?\n\n  Naïve €  \r\n/new\nHello?".encode())
    assert main(["chat", str(folder / "gpt"), *OPTIONS]) == 0
    generator = Generator(load_model(folder / "gpt"), ByteTokenizer())
    first, second = conversation(generator, "Hello?", "Naïve €")
    assert capsys.readouterr().out == f"{first}\n{second}\n{first}\n"


def test_a_typed_conversation(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["Hello?", "", "And?"])

    def type_a_line(prompt: str) -> str:
        assert prompt == "> "
        line = next(typed, None)
        if line is None:
            raise EOFError
        return line

    terminal = io.TextIOWrapper(io.BytesIO())
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(builtins, "input", type_a_line)
    assert main(["chat", str(folder / "gpt"), *OPTIONS]) == 0
    generator = Generator(load_model(folder / "gpt"), ByteTokenizer())
    assert (
        capsys.readouterr().out == "".join(f"{reply}\n" for reply in conversation(generator, "Hello?", "And?")) + "\n"
    )


def test_a_retro_retrieves_while_it_talks(
    folder: Path, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"copper\nviolin\n")
    assert main(["chat", str(folder / "retro"), "--retriever", str(index), *OPTIONS, "--retrieval_stride", "4"]) == 0
    generator = Generator(load_model(folder / "retro"), ByteTokenizer(), LiveRetriever(index), retrieval_stride=4)
    assert capsys.readouterr().out == "".join(f"{reply}\n" for reply in conversation(generator, "copper", "violin"))
    pipe(monkeypatch, b"copper\n")
    assert main(["chat", str(folder / "retro"), "--retriever", str(index), *OPTIONS, "--show_neighbors"]) == 0
    shown = capsys.readouterr().out
    assert "\n\ntokens 0-7:\n  0." in shown  # "User: co"
    assert "notes.txt:" in shown


def test_a_retro_without_a_retriever_says_so_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"Hello?\n")
    assert main(["chat", str(folder / "retro"), *OPTIONS]) == 0
    out, error = capsys.readouterr()
    assert out == conversation(Generator(load_model(folder / "retro"), ByteTokenizer()), "Hello?")[0] + "\n"
    assert error == "retrolit chat: no --retriever: the Retro's decoder writes alone, as with gate 0\n"


def test_mistakes_end_in_a_line(
    folder: Path, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*arguments: str, said: bytes = b"Hello?\n") -> str:
        pipe(monkeypatch, said)
        assert main(["chat", *arguments]) == 2
        line = capsys.readouterr().err
        assert len(line.splitlines()) == 1
        return line

    assert "expected a Retro, which reads neighbors," in error(str(folder / "gpt"), "--retriever", str(index))
    assert "retrieval_stride: expected 1 to 8 tokens" in error(
        str(folder / "retro"), "--retriever", str(index), "--retrieval_stride", "9"
    )
    assert "nowhere" in error(str(folder / "retro"), "--retriever", str(folder / "nowhere"))
    assert "standard input:1: expected UTF-8, got other bytes" in error(str(folder / "gpt"), said=b"\xff\n")
