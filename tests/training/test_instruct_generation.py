"""A reply is trained with what it will be written with: the same neighbors, read by the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from retrolit.checkpoint import save_model
from retrolit.data.preparation import InstructionConfig
from retrolit.generation import Chat, Generator, SamplingConfig
from retrolit.generation.retrieval import ChunkNeighbors, RetrievalSettings, RetrievingReading
from retrolit.retrieval import LiveRetriever
from retrolit.tokens import ByteTokenizer
from retrolit.tokens.chat_template import load_chat_template
from retrolit.tokens.config import TokenizerConfig
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.training import InstructionData, InstructRetroModule, ScheduleConfig
from tests.generation.small_retro import WORDS, build, prepare_index

QUESTIONS = [" ".join(WORDS[i : i + n]) for i, n in ((0, 2), (1, 3), (2, 5), (4, 1), (3, 4), (6, 2))]
"""Of many lengths, modulo the 8 tokens of a chunk too."""


@pytest.fixture
def data(tmp_path: Path) -> InstructionData:
    records = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text[::-1]} {text}"}]}
        for text in QUESTIONS
    ]
    records[2]["messages"] = [*records[1]["messages"], *records[2]["messages"]]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, records)))
    corpora = {"questions": ConversationCorpusConfig(str(tmp_path / "questions.jsonl"), split="validation")}
    corpora["more"] = ConversationCorpusConfig(str(tmp_path / "questions.jsonl"), split="train")
    index = prepare_index(tmp_path / "index")
    config = ConversationsConfig(
        corpora, TokenizerConfig("bytes"), max_length=184, template="plain", retrieval=str(index), num_saved=2
    )
    kept = InstructionConfig(str(tmp_path / "prepared"), config)
    return InstructionData(kept, sequence_length=192, global_batch_size=4, chunk_length=8, num_neighbors=2)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_of_a_reply_is_that_of_writing_it(packed: bool, data: InstructionData, tmp_path: Path) -> None:
    model, tokenizer = build(), ByteTokenizer()
    save_model(model, tmp_path / "model")
    data.packed = packed
    data.setup("inspect")
    module = InstructRetroModule(model.config, init_from=str(tmp_path / "model"), gate=1, schedule=ScheduleConfig())
    module.model = model
    samples = data.training_samples() if packed else data.evaluation_samples("validation")
    batch = samples[range(2 if packed else 6)]
    corpora = data.corpora["train" if packed else "validation"]
    with torch.no_grad():
        trained, without = module.loss(batch).tokens, model.decoder.loss(batch.tokens, batch.labels).tokens
    settings = RetrievalSettings(LiveRetriever(tmp_path / "index"))
    lengths = set()
    for row in range(len(batch.tokens)):
        losses = []
        for number, conversation in samples.places(row):
            store = corpora[number].store
            ids, begin = store[conversation].tolist(), int(store.prompt_lengths[conversation])
            lengths.add(begin % 8)
            found: list[ChunkNeighbors] = []
            with torch.no_grad():
                reading = RetrievingReading(model, settings, tokenizer, [ids[:begin]], len(ids) - begin, [found])
                logits = [reading.prompts()]
                logits += [reading.next(torch.tensor([i])) for i in ids[begin:-1]]
            losses.append(F.cross_entropy(torch.cat(logits), torch.tensor(ids[begin:]), reduction="none"))
            assert found[-1].end > begin, "neighbors are retrieved for chunks of the reply too"
        kept = batch.loss_mask[row].bool()
        assert torch.allclose(trained[row][kept], torch.cat(losses), atol=2e-5)
        assert not torch.allclose(trained[row][kept], without[row][kept], atol=1e-2), "neighbors matter"
    assert len(lengths) > 2, "prompts end in several places of a chunk"


def test_chat_asks_with_the_prompt_that_was_trained(data: InstructionData, tmp_path: Path) -> None:
    data.setup("inspect")
    store = data.corpora["validation"][0].store
    generator = Generator(build(), ByteTokenizer(), LiveRetriever(tmp_path / "index"))
    prompt = Chat(generator, load_chat_template("plain"), SamplingConfig(16)).prompt(QUESTIONS[0])
    assert prompt == store[0][: store.prompt_lengths[0]].tolist()
