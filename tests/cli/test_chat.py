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
from retrolit.tokens.chat_template import load_chat_template
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


def conversation(generator: Generator, *messages: str, system: str = "") -> list[str]:
    """The replies to these messages, one after the other; a byte is a token."""
    said, replies = system, []
    for message in messages:
        said += f"User: {message}\n\nAssistant:"
        replies.append(generator.generate([list(said.encode())], SAMPLING)[0].text.strip())
        said += f" {replies[-1]}\n\n"
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
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))

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
    assert (folder / "state/retrolit/chat_history").is_file()
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
    pipe(monkeypatch, b"/gate 0\ncopper\n/neighbors\n/new\n/gate 1\ncopper\n/neighbors\n")
    assert main(["chat", str(folder / "retro"), "--retriever", str(index), *OPTIONS]) == 0
    alone = conversation(Generator(load_model(folder / "retro"), ByteTokenizer()), "copper")[0]
    assert capsys.readouterr().out == f"{alone}\nnothing was retrieved\n{shown}"


def test_passages_for_a_message_stand_in_its_prompt_alone(
    folder: Path, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a GPT: two passages before the turns, found anew for each message, and shown on demand."""
    pipe(monkeypatch, b"copper\n/neighbors\nviolin\n")
    assert main(["chat", str(folder / "gpt"), "--retriever", str(index), "--contexts", "2", *OPTIONS]) == 0
    shown = capsys.readouterr().out
    generator, retriever, turns = Generator(load_model(folder / "gpt"), ByteTokenizer()), LiveRetriever(index), ""
    expected = []
    for message in ("copper", "violin"):
        found = retriever.retrieve_text([message], 2)
        texts = [
            bytes(tokens[mask].tolist()).decode() for tokens, mask in zip(found.tokens[0], found.mask[0], strict=True)
        ]
        sources = [retriever.source(id) for id in found.ids[0]]
        blocks = [f"title: {source}, source: {text}\n\n" for source, text in zip(sources, texts, strict=True)]
        turns += f"User: {message}\n\nAssistant:"
        reply = generator.generate([list(("".join(blocks) + turns).encode())], SAMPLING)[0].text.strip()
        turns += f" {reply}\n\n"
        expected.append(f"{reply}\n")
        if message == "copper":
            expected.append("\nin the prompt:\n")
            for distance, source, text in zip(found.distances[0], sources, texts, strict=True):
                expected.append(f"  {distance:.3f}  {source}\n         {' '.join(text.split())}\n")
    assert shown == "".join(expected)


def test_excluded_passages_stay_out(folder: Path, index: Path, capsys, monkeypatch) -> None:
    options = [str(folder / "gpt"), "--retriever", str(index), "--contexts", "30", "--max_new_tokens", "1"]
    pipe(monkeypatch, b"copper\n/neighbors\n")
    assert main(["chat", *options]) == 0
    source = next(line.split("  ")[2] for line in capsys.readouterr().out.splitlines() if "notes.txt:" in line)
    pipe(monkeypatch, b"copper\n/neighbors\n")
    assert main(["chat", *options, "--exclude", source]) == 0
    assert source not in capsys.readouterr().out


def test_system_messages_templates_and_help(folder: Path, capsys, monkeypatch) -> None:
    generator = Generator(load_model(folder / "gpt"), ByteTokenizer())
    pipe(monkeypatch, b"Hello?\n/system Be brief.\nHello?\n/new\nHello?\n/help\n")
    assert main(["chat", str(folder / "gpt"), *OPTIONS, "--system", "Be kind."]) == 0
    kind, brief = (
        conversation(generator, "Hello?", system=f"System: {how}.\n\n")[0] for how in ("Be kind", "Be brief")
    )
    out = capsys.readouterr().out
    assert out.startswith(f"{kind}\n{brief}\n{brief}\n/new  ")
    load_chat_template("instructretro").save(folder / "gpt")  # as a tuned model has it
    pipe(monkeypatch, b"Hello?\n")
    assert main(["chat", str(folder / "gpt"), *OPTIONS, "--system", ""]) == 0
    assert capsys.readouterr().out == f"{conversation(generator, 'Hello?')[0]}\n"
    pipe(monkeypatch, b"Hello?\n")
    assert main(["chat", str(folder / "gpt"), *OPTIONS]) == 2  # its own system message is longer than the model
    assert "prompt: expected a last question of at most 247 tokens" in capsys.readouterr().err


def test_a_wrong_command_is_told_and_the_conversation_goes_on(folder: Path, index: Path, capsys, monkeypatch) -> None:
    pipe(monkeypatch, b"/news\n/gate 1\nHello?\n")
    assert main(["chat", str(folder / "gpt"), *OPTIONS]) == 0
    out, error = capsys.readouterr()
    assert out == conversation(Generator(load_model(folder / "gpt"), ByteTokenizer()), "Hello?")[0] + "\n"
    assert "/news: there is no such command; /help shows them" in error
    assert "/gate: nothing is retrieved while this model writes; give a Retro a --retriever" in error
    pipe(monkeypatch, b"/gate\n/gate 2\n")
    assert main(["chat", str(folder / "retro"), "--retriever", str(index), *OPTIONS]) == 0
    assert capsys.readouterr().err == "/gate: expected 0 or 1, got nothing\n/gate: expected 0 or 1, got 2\n"


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
    assert "contexts: to retrieve them expected an index, got none" in error(str(folder / "gpt"), "--contexts", "5")
    assert "chat template loud: expected base, " in error(str(folder / "gpt"), "--template", "loud")
    assert "retrieval_stride: expected 1 to 8 tokens" in error(
        str(folder / "retro"), "--retriever", str(index), "--retrieval_stride", "9"
    )
    assert "nowhere" in error(str(folder / "retro"), "--retriever", str(folder / "nowhere"))
    assert "standard input:1: expected UTF-8, got other bytes" in error(str(folder / "gpt"), said=b"\xff\n")
