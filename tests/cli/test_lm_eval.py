"""Our models in lm-evaluation-harness: a small local task, its own command line, with retrieval and without."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from retrolit.checkpoint import load_model, save_model
from retrolit.evaluation.continuations import likelihoods
from retrolit.generation import Generator, SamplingConfig
from retrolit.tokens import ByteTokenizer
from tests.generation.small_retro import build, prepare_index

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness")

DATA = [
    {"question": "copper and", "choices": [" violin", " river", " anchor"], "answer": 0},
    {"question": "the meadow in", "choices": [" winter", " saddle", " pepper"], "answer": 2},
    {"question": "falcon", "choices": ["s", " granite harbor", "!"], "answer": 1},
]
CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output_type}
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
target_delimiter: ""
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Retro, an index and three tasks of the harness's kinds, offline."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    save_model(build(), tmp_path / "retro", ByteTokenizer())
    prepare_index(tmp_path / "prepared")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in DATA))
    (tmp_path / "tasks").mkdir()
    for name, output_type, rest in (
        ("choice", "multiple_choice", "doc_to_choice: choices\n"),
        ("rolling", "loglikelihood_rolling", "metric_list: [{metric: bits_per_byte}]\n"),
        ("written", "generate_until", 'generation_kwargs: {until: ["z"], max_gen_toks: 7}\n'
                                      "metric_list: [{metric: exact_match}]\n"),
    ):  # fmt: skip
        text = CHOICE.format(name=name, data=data, output_type=output_type) + rest
        if name == "rolling":
            text = text.replace("doc_to_target: answer", 'doc_to_target: "{{question}}"').replace(
                '"{{question}}"', '""', 1
            )
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    return tmp_path


def run(folder: Path, tasks: str, monkeypatch: pytest.MonkeyPatch, **arguments: object) -> list[list[dict]]:
    """The harness's command line with our model; the samples of each task."""
    told = ",".join(f"{name}={value}" for name, value in {"model": folder / "retro", **arguments}.items())
    output = folder / f"out-{len(arguments)}"
    command = ["lm_eval", "run", "--model", "retrolit", "--model_args", told, "--tasks", tasks, "--include_path",
               str(folder / "tasks"), "--output_path", str(output), "--log_samples", "--device", "cpu",
               "--batch_size", "2"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_module("retrolit.cli.lm_eval", run_name="__main__", alter_sys=True)
    return [
        [json.loads(line) for line in next(output.rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()]
        for task in tasks.split(",")
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_harness_asks_a_retro(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrolit.retrieval import LiveRetriever

    codec, index = ByteTokenizer(), folder / "prepared"
    generator = Generator(load_model(folder / "retro"), codec, LiveRetriever(index), num_neighbors=3)
    choice, rolling, written = run(folder, "choice,rolling,written", monkeypatch, retriever=index, num_neighbors=3)
    for sample, record in zip(choice, DATA, strict=True):
        pairs = [(codec.encode(record["question"]), codec.encode(text)) for text in record["choices"]]
        expected = [one.log_probability for one in likelihoods(generator, pairs)]
        assert [float(one[0]) for one in sample["filtered_resps"]] == pytest.approx(expected, abs=1e-3)
        without = [one.log_probability for one in likelihoods(Generator(generator.model, codec), pairs)]
        assert without != pytest.approx(expected, abs=1e-3), "the neighbors are read"
    (whole,) = likelihoods(generator, [([codec.eod_id], codec.encode(DATA[0]["question"]))])
    assert float(rolling[0]["filtered_resps"][0]) == pytest.approx(whole.log_probability, abs=1e-3)
    sampling = SamplingConfig(max_new_tokens=7, temperature=0, stop="z")
    made = [one.text for one in generator.generate([record["question"] for record in DATA], sampling)]
    assert [sample["filtered_resps"][0] for sample in written] == made
