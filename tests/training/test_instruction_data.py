"""InstructionData: what it prepares, what it refuses, what it says about a blend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest

from retrolit.data.preparation import DataConfig, InstructionConfig, prepare
from retrolit.retrieval import EmbedderConfig, RetrievalConfig
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.training import InstructionData

SAMPLES = Path(__file__).parents[2] / "data/samples/conversations"


def data(folder: Path, splits: dict[str, float] | None = None, **settings: Any) -> InstructionData:
    corpora = {
        "qa": ConversationCorpusConfig(str(SAMPLES / "nvidia-qa.json"), split="train", weight=3),
        "chat": ConversationCorpusConfig(str(SAMPLES / "sharegpt.json"), split="train", weight=1),
        "notes": ConversationCorpusConfig(str(SAMPLES / "alpaca.json"), split="validation", weight=1),
    }
    config = ConversationsConfig(corpora, TokenizerConfig("bytes"), max_length=641, num_neighbors=1)
    shape: dict[str, Any] = {"sequence_length": 640, "global_batch_size": 4} | settings
    return InstructionData(InstructionConfig(str(folder), config), **shape)


def test_a_run_is_told_its_epochs_and_reads_its_batches(tmp_path: Path) -> None:
    module = data(tmp_path, micro_batch_size=2)
    module.trainer = L.Trainer(max_steps=6, accelerator="cpu", logger=False, enable_checkpointing=False)
    module.prepare_data()
    module.setup("fit")
    assert module.accounting()[0].startswith("qa: 3 conversations, ")
    assert module.accounting()[0].endswith("the run draws 18 (6.000 epochs)")
    assert module.accounting()[1].endswith("the run draws 6 (3.000 epochs)")
    batches = list(module.train_dataloader())
    assert len(batches) == 12
    assert all(batch.tokens.shape[0] == 2 for batch in batches)
    assert module.steps_per_epoch == 1
    assert module.tokens_per_step < 4 * 640
    assert module.bytes_per_token("train") == pytest.approx(
        sum(w * (b / n) for w, b, n in _rates(module, "bytes"))
        / sum(w * (t / n) for w, t, n in _rates(module, "trained"))
    )
    validation = module.val_dataloader()
    assert len(validation) == 1
    assert module.state_dict()["prepared data"] == module.fingerprint
    with pytest.raises(ValueError, match=r"the test split holds no tokens; .* conversations.splits"):
        module.test_dataloader()


def _rates(module: InstructionData, name: str) -> list[tuple[float, int, int]]:
    return [(corpus.weight or 0, corpus.sizes[name], len(corpus.store)) for corpus in module.corpora["train"]]


def test_packed_samples_say_how_many_they_hold(tmp_path: Path) -> None:
    module = data(tmp_path, packed=True, sequence_length=1280)
    module.trainer = L.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    module.setup("fit")
    assert module.tokens_per_step == 4 * 1280
    said = module.accounting()[-1]
    assert said.startswith("packed: ")
    assert said.endswith(" conversations in 8 samples")
    assert int(said.split()[1]) > 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 64}, "data.sequence_length: expected at least 640"),
        (
            {"num_neighbors": 1},
            r"data.sequence_length: expected at least 703, .* \(641\), and chunk_length - 1 = 63 more",
        ),
        ({"num_neighbors": 2}, r"data.num_neighbors: expected at most .*conversations.num_neighbors \(1\), got 2"),
        (
            {"sequence_length": 704, "num_neighbors": 1, "num_retrieved_chunks": 3},
            r"data.num_retrieved_chunks: expected .* 3 x 64 = 192",
        ),
        ({"global_batch_size": 0}, "data.global_batch_size: expected at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        data(tmp_path, **settings)


def test_what_is_retrieved_has_to_fit(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("an owl keeps the lamp " * 40)
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), split="train")}
    retrieval = RetrievalConfig(32, embedder=EmbedderConfig(dimension=32))
    prepare(DataConfig(str(tmp_path / "index"), TokensConfig(corpora, TokenizerConfig("bytes")), retrieval))
    questions = {"chat": ConversationCorpusConfig(str(SAMPLES / "sharegpt.json"), split="train")}
    config = ConversationsConfig(
        questions, TokenizerConfig("bytes"), max_length=641, retrieval=str(tmp_path / "index"), num_saved=2
    )
    kept = InstructionConfig(str(tmp_path / "instruct"), config)
    settings: dict[str, Any] = {"sequence_length": 704, "global_batch_size": 4}
    with pytest.raises(ValueError, match=r"data.num_neighbors: expected .*conversations.num_saved \(2\), got 3"):
        InstructionData(kept, num_neighbors=3, **settings)
    with pytest.raises(ValueError, match=r"data.chunk_length: expected 32, that of .*, got 64"):
        InstructionData(kept, num_neighbors=2, **settings).setup("inspect")
    fitting = InstructionData(kept, num_neighbors=2, chunk_length=32, **settings)
    fitting.trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    fitting.setup("fit")
    assert fitting.state_dict()["prepared neighbors"]
    batch = next(iter(fitting.train_dataloader()))
    assert batch.neighbor_mask is not None
    assert batch.neighbor_mask.any()
    without = InstructionData(kept, **settings)
    without.setup("inspect")
    assert not without.retrieved
    assert without.fingerprint == fitting.fingerprint


def test_training_needs_a_conversation(tmp_path: Path) -> None:
    corpora = {"notes": ConversationCorpusConfig(str(SAMPLES / "alpaca.json"), split="test")}
    config = ConversationsConfig(corpora, TokenizerConfig("bytes"), max_length=641)
    module = InstructionData(InstructionConfig(str(tmp_path), config), sequence_length=640, global_batch_size=4)
    with pytest.raises(ValueError, match="the train split holds no conversation"):
        module.setup("inspect")
