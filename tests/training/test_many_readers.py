"""Samples under many processes: the same in every step whoever reads them, each once an epoch, each evaluated once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from retrolit.data import PretrainingSamples, evaluation_numbers, training_numbers
from retrolit.data.document_windows import DocumentWindows
from retrolit.data.instruction import PACKED_TOGETHER
from retrolit.data.preparation import InstructionConfig
from retrolit.tokens import TokenStore
from retrolit.tokens.config import TokenizerConfig
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.training import InstructionData, PretrainingData, TrainingData

CONVERSATIONS = Path(__file__).parents[2] / "data/samples/conversations"
KINDS = ["streams", "conversations", "packed"]
GLOBAL_BATCH_SIZE = 8


@pytest.fixture(scope="module")
def open_data(data_config, tmp_path_factory):
    """Data of each kind, prepared once: one corpus, so an epoch is a whole number of samples."""
    folder, opened = tmp_path_factory.mktemp("conversations"), {}

    def get(kind: str) -> TrainingData:
        if kind not in opened:
            if kind == "streams":
                data = PretrainingData(data_config, sequence_length=32, global_batch_size=8, chunk_length=8)
            else:
                corpora = {
                    "notes": ConversationCorpusConfig(str(CONVERSATIONS / "alpaca.json"), split="train"),
                    "chat": ConversationCorpusConfig(str(CONVERSATIONS / "sharegpt.json"), split="validation"),
                }
                conversations = ConversationsConfig(corpora, TokenizerConfig("bytes"), max_length=641)
                config = InstructionConfig(str(folder), conversations)
                packed = kind == "packed"
                data = InstructionData(config, sequence_length=1280, global_batch_size=8, packed=packed)
            data.prepare_data()
            data.open()
            opened[kind] = data
        return opened[kind]

    return get


def _read(first: int, last: int, micro: int, world_size: int) -> list[Counter[int]]:
    """The numbers of the samples that all processes together read in each of these steps."""
    steps = [Counter() for _ in range(first, last)]
    for rank in range(world_size):
        batches = list(
            training_numbers(
                first,
                last,
                global_batch_size=GLOBAL_BATCH_SIZE,
                micro_batch_size=micro,
                rank=rank,
                world_size=world_size,
            )
        )
        for number, numbers in enumerate(batches):
            steps[number * len(steps) // len(batches)].update(numbers)
    return steps


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_changes_its_processes_reads_each_sample_once_an_epoch(kind, open_data):
    data = open_data(kind)
    one = _read(0, 40, micro=8, world_size=1)
    many = [
        *_read(0, 7, micro=2, world_size=2),
        *_read(7, 16, micro=1, world_size=8),
        *_read(16, 18, micro=4, world_size=1),
        *_read(18, 40, micro=2, world_size=4),
    ]
    assert many == one
    numbers = [number for step in many for number in step]
    samples = data.training_samples()
    if isinstance(samples, PretrainingSamples):
        size, places = samples.windows[0].windows_per_epoch, [samples.place(number) for number in numbers]
    else:
        size, draws = len(data.corpora["train"][0].store), numbers
        if samples.packing is not None:
            draws = [draw for number in numbers for draw in samples.packing.draws(number)]
            assert sorted(draws[:PACKED_TOGETHER]) == list(range(PACKED_TOGETHER)), "nothing is lost or doubled"
            draws = sorted(draws[:PACKED_TOGETHER])
        places = [samples.place(draw) for draw in draws]
    epochs = [places[begin : begin + size] for begin in range(0, len(places) - size + 1, size)]
    assert epochs
    assert all(len(set(epoch)) == size for epoch in epochs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_processes_batches_are_the_rows_of_one(kind, open_data):
    samples = open_data(kind).training_samples()
    whole = samples[list(range(8, 16))]
    rows = []
    for rank in range(2):
        for numbers in training_numbers(1, 2, global_batch_size=8, micro_batch_size=2, rank=rank, world_size=2):
            batch = samples[numbers]
            for number, tokens, mask in zip(numbers, batch.tokens, batch.loss_mask, strict=True):
                rows.append((number, tokens[mask > 0], int(mask.sum())))
    assert [number for number, _, _ in sorted(rows, key=lambda row: row[0])] == list(range(8, 16))
    for number, tokens, counted in rows:
        kept = whole.loss_mask[number - 8] > 0
        assert counted == int(kept.sum())
        assert torch.equal(tokens, whole.tokens[number - 8][kept])


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["windows", "documents", "conversations"])
def test_every_process_evaluates_its_own_and_all_together_everything_once(kind, world_size, open_data):
    data = open_data("conversations" if kind == "conversations" else "streams")
    samples = data.evaluation_samples("validation")
    if kind == "documents":
        samples = DocumentWindows([corpus.store for corpus in data.corpora["validation"]], 32, 16)
    whole = samples[list(range(len(samples)))]
    counted, labels, lengths = 0, torch.zeros(300, dtype=torch.int64), set()
    for rank in range(world_size):
        batches = list(evaluation_numbers(len(samples), micro_batch_size=2, rank=rank, world_size=world_size))
        lengths.add(len(batches))
        for numbers in batches:
            batch = samples[numbers]
            counted += int(batch.loss_mask.sum())
            labels += torch.bincount(batch.labels[batch.loss_mask > 0], minlength=300)
    assert len(lengths) == 1, "processes that talk to each other behind each batch have equally many"
    assert counted == int(whole.loss_mask.sum())
    assert torch.equal(labels, torch.bincount(whole.labels[whole.loss_mask > 0], minlength=300))


def test_a_store_is_mapped_and_not_read(tmp_path):
    """Four gigabytes of tokens that nobody wrote (a sparse file): opening them and reading windows takes no memory."""
    num_tokens = 2**31 - 1
    header = b"MMIDIDX\0\0" + np.array([1], "<u8").tobytes() + bytes([8]) + np.array([1, 2], "<u8").tobytes()
    index = np.array([num_tokens], "<i4").tobytes() + np.array([0], "<i8").tobytes() + np.array([0, 1], "<i8").tobytes()
    (tmp_path / "train.idx").write_bytes(header + index)
    with open(tmp_path / "train.bin", "wb") as file:
        file.truncate(2 * num_tokens)
    before = _resident()
    store = TokenStore(tmp_path / "train")
    assert store.num_tokens == num_tokens
    for start in range(0, num_tokens - 2048, num_tokens // 50):
        assert not store.tokens[start : start + 2048].any()
    assert _resident() - before < 50e6


def _resident() -> int:
    """Bytes of memory that this process holds, files that it maps included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
