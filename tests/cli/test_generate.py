"""The verb `generate`: where prompts come from, where text goes, and that mistakes end in a line."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from retrolit.checkpoint import load_model, save_model
from retrolit.cli.main import main
from retrolit.generation import Generator, SamplingConfig
from retrolit.models import GPT, GPTConfig
from retrolit.retrieval import LiveRetriever
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import build, prepare_index

CONFIG = GPTConfig(vocab_size=257, hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=64)
PROMPTS = ["one", "two €", "drei"]
OPTIONS = ["--max_new_tokens", "9", "--seed", "4", "--top_k=50"]
SAMPLING = SamplingConfig(max_new_tokens=9, seed=4, top_k=50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(GPT(CONFIG), tmp_path / "model", ByteTokenizer())
    return tmp_path / "model"


@pytest.fixture
def generator(folder: Path) -> Generator:
    return Generator(load_model(folder), ByteTokenizer())


def expected_lines(generator: Generator, prompts: list[str] = PROMPTS) -> list[dict]:
    generations = generator.generate(prompts, SAMPLING)
    return [{"prompt": prompt, **asdict(made)} for prompt, made in zip(prompts, generations, strict=True)]


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_prompts_text_is_printed(folder: Path, generator: Generator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folder), "--prompt", "one", *OPTIONS]) == 0
    assert capsys.readouterr().out == generator.generate(["one"], SAMPLING)[0].text + "\n"


def test_several_prompts_give_json_lines(
    folder: Path, generator: Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    several = [argument for prompt in PROMPTS for argument in ("--prompt", prompt)]
    assert main(["generate", str(folder), *several, *OPTIONS, "--batch_size", "2"]) == 0
    assert lines_of(capsys.readouterr().out) == expected_lines(generator)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", "one\n\ntwo €\r\ndrei"),
        ("prompts.jsonl", '"one"\n{"prompt": "two €", "id": 3}\n{"prompt": "drei"}\n'),
    ],
)
def test_prompts_from_a_file_to_a_file(
    name: str, content: str, generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, results = tmp_path / name, tmp_path / "new" / "results.jsonl"
    prompts.write_bytes(content.encode())
    assert main(["generate", str(tmp_path / "model"), "--file", str(prompts), "--output", str(results), *OPTIONS]) == 0
    assert lines_of(results.read_text(encoding="utf-8")) == expected_lines(generator)
    assert f"3 continuations in {results}" in capsys.readouterr().out


def test_prompts_from_a_pipe(
    folder: Path, generator: Generator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("one\ntwo €\ndrei\n".encode())))
    assert main(["generate", str(folder), *OPTIONS]) == 0
    assert lines_of(capsys.readouterr().out) == expected_lines(generator)


def test_a_training_checkpoint_and_a_recipe(
    folder: Path, generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"model.{name}": tensor for name, tensor in generator.model.state_dict().items()}
    checkpoint = {"retrolit": {"model_type": "gpt", "config": asdict(CONFIG)}, "state_dict": state}
    torch.save(checkpoint, tmp_path / "step.ckpt")
    recipe = tmp_path / "generate.yaml"
    recipe.write_text(f"model: {tmp_path / 'step.ckpt'}\nprompt: [one]\nmax_new_tokens: 9\nseed: 4\ntop_k: 50\n")
    assert main(["generate", "-c", str(recipe), "--tokenizer", str(folder)]) == 0
    assert capsys.readouterr().out == generator.generate(["one"], SAMPLING)[0].text + "\n"
    assert main(["generate", "-c", str(recipe)]) == 2
    assert "a checkpoint has no tokenizer; name the one it was trained with" in capsys.readouterr().err


def test_texts_are_taken_as_they_are_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of these is something else in YAML."""
    odd = ["- a", "[1]", "null", "# a", "{a: b}", '"a"', "", "\n", "12"]
    options = [argument for text in odd for argument in ("--prompt", text)]
    options += [argument for text in odd if text for argument in ("--stop", text)]
    assert main(["generate", str(folder), *options, "--max_new_tokens", "1"]) == 0
    assert [line["prompt"] for line in lines_of(capsys.readouterr().out)] == odd


def test_stop_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ascii_text = [argument for number in range(1, 128) for argument in ("--stop", chr(number))]
    assert main(["generate", str(folder), "--prompt", "one", "--max_new_tokens", "50", *ascii_text]) == 0
    assert not any("\0" < character < "\x80" for character in capsys.readouterr().out.removesuffix("\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"one"\n{"text": "two"}\n', ':2: expected a JSON string or an object with a text "prompt"'),
        (b'{"prompt": 3}\n', ":1: expected a JSON string"),
        (b"[]\n", ":1: expected a JSON string"),
        (b"one\n", ":1: expected a JSON string"),
        (b'"one"\n"\xff"\n', ":2: expected UTF-8, got other bytes"),
        (b"\n", ": expected at least one prompt, got none"),
    ],
)
def test_a_bad_file_of_prompts_is_named_with_its_line(
    content: bytes, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    prompts.write_bytes(content)
    assert main(["generate", str(folder), "--file", str(prompts), "--output", str(results)]) == 2
    error = capsys.readouterr().err
    assert f"{prompts}{message}" in error
    assert len(error.splitlines()) == 1
    assert not results.exists()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_index(tmp_path_factory.mktemp("index") / "prepared")


@pytest.fixture
def retro(tmp_path: Path) -> Path:
    save_model(build(), tmp_path / "retro", ByteTokenizer())
    return tmp_path / "retro"


def test_a_retro_retrieves_while_it_writes(retro: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = Generator(load_model(retro), ByteTokenizer(), LiveRetriever(index), num_neighbors=3)
    (expected,) = generator.generate(["copper and violin"], SAMPLING)
    options = ["--retriever", str(index.parents[1]), "--num_neighbors", "3", *OPTIONS]
    assert main(["generate", str(retro), "--prompt", "copper and violin", *options]) == 0
    assert capsys.readouterr().out == expected.text + "\n"
    assert main(["generate", str(retro), "--prompt", "copper and violin", *options, "--show_neighbors"]) == 0
    shown = capsys.readouterr().out.removeprefix(expected.text + "\n")
    first = expected.neighbors[1].neighbors[0]
    assert shown.startswith("\ntokens 0-0:\n")
    assert (
        f"\n\ntokens 1-8:\n  {first.distance:.3f}  {first.source}\n         {' '.join(first.text.split())}\n" in shown
    )
    assert main(["generate", str(retro), "--prompt", "", *options, "--show_neighbors"]) == 0
    assert "\n\ntokens 0-0: no neighbors\n" in capsys.readouterr().out
    several = [argument for prompt in PROMPTS for argument in ("--prompt", prompt)]
    assert main(["generate", str(retro), *several, *options]) == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines == expected_lines(generator)
    assert any(chunk["neighbors"] for line in lines for chunk in line["neighbors"])


def test_gate_0_and_no_retriever_give_the_decoders_text(
    retro: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Generator(load_model(retro), ByteTokenizer()).generate(["copper"], SAMPLING)[0].text
    assert main(["generate", str(retro), "--prompt", "copper", *OPTIONS]) == 0
    assert capsys.readouterr() == (
        text + "\n", "retrolit generate: no --retriever: the Retro's decoder writes alone, as with gate 0\n"
    )  # fmt: skip
    assert main(["generate", str(retro), "--prompt", "copper", *OPTIONS, "--retriever", str(index), "--gate", "0"]) == 0
    assert capsys.readouterr() == (text + "\n", "")


def test_excluded_documents_are_not_read(retro: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sources(*options: str) -> list[list[str]]:
        command = ["generate", str(retro), "--prompt", "copper violin", "--prompt", "x", *OPTIONS]
        assert main([*command, "--retriever", str(index), *options]) == 0
        chunks = lines_of(capsys.readouterr().out)[0]["neighbors"][:2]
        return [[neighbor["source"] for neighbor in chunk["neighbors"]] for chunk in chunks]

    _, second = sources()
    document = second[0].rpartition(" tokens")[0]
    without = sources("--exclude", document)
    assert not any(source.startswith(document) for chunk in without for source in chunk)
    assert len(without[1]) == len(second) == 2
    assert sources("--exclude", document, "--exclude", "notes") == [[], []]


def test_mistakes_end_in_a_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*arguments: str) -> str:
        assert main(["generate", *arguments]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        return said

    model = str(folder)
    assert "expected --prompt or --file, got both" in error(model, "--prompt", "a", "--file", "b")
    assert "SamplingConfig.top_p: expected above 0" in error(model, "--prompt", "a", "--top_p", "0")
    numbers = tmp_path / "numbers.yaml"
    numbers.write_text("prompt: [1, two]")
    assert "prompt: expected texts, got [1, 'two']" in error(model, "-c", str(numbers))
    assert "nothing.txt" in error(model, "--file", "nothing.txt")
    assert "nowhere" in error("nowhere", "--prompt", "a")
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in error(model, "--prompt", "a", "--output", str(tmp_path / "file" / "results.jsonl"))
    if not torch.cuda.is_available():
        assert "torch finds no GPU here" in error(model, "--prompt", "a", "--device", "cuda")
    terminal = io.TextIOWrapper(io.BytesIO())
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert "no prompt: give --prompt TEXT or --file PATH" in error(model)


def test_a_warning_is_a_line_and_the_text_comes_all_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folder), "--prompt", "a", "--max_new_tokens", "70", "--temperature", "0"]) == 0
    out, error = capsys.readouterr()
    assert out
    assert error.startswith("retrolit generate: a prompt of 1 tokens and max_new_tokens 70 reach beyond the 64 tokens")
    assert len(error.splitlines()) == 1


def test_nothing_is_written_when_generation_fails(folder: Path, tmp_path: Path) -> None:
    learned = GPTConfig(**{**asdict(CONFIG), "position_embedding": "learned"})
    save_model(GPT(learned), tmp_path / "learned", ByteTokenizer())
    results = tmp_path / "results" / "results.jsonl"
    assert main(["generate", str(tmp_path / "learned"), "--prompt", "a", "--output", str(results)]) == 2
    assert not list(results.parent.iterdir())
