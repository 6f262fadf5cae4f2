"""Samples of conversations: every label its own conversation's, nothing lost in packing, the same from any start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrolit.data import instruction
from retrolit.data.instruction import InstructionEvaluation, InstructionSamples, SampleShape, make_batch
from retrolit.retrieval import EmbedderConfig, RetrievalConfig, prepare_retrieval
from retrolit.retrieval.conversation_neighbors import ConversationNeighbors, retrieve_for_conversations
from retrolit.tokens import Blend, ByteTokenizer
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.conversation_config import ConversationCorpusConfig, ConversationsConfig
from retrolit.tokens.prepare import prepare_tokens
from retrolit.tokens.prepare_conversations import ConversationStore, prepare_conversations

SAMPLES = Path(__file__).parents[2] / "data/samples/conversations"
SHAPE = SampleShape(sequence_length=1280, chunk_length=64)
WITH_NEIGHBORS = SampleShape(sequence_length=1280, chunk_length=64, num_neighbors=2, neighbor_length=32)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[ConversationStore]:
    names = {"qa": "nvidia-qa.json", "chat": "sharegpt.json"}
    corpora = {name: ConversationCorpusConfig(str(SAMPLES / file), split="train") for name, file in names.items()}
    config = ConversationsConfig(corpora, TokenizerConfig("bytes"), max_length=641, num_neighbors=2, neighbor_length=40)
    prepared = prepare_conversations(config, tmp_path_factory.mktemp("prepared"), processes=1)
    assert prepared is not None
    assert prepared.manifests["qa"].sizes["train"]["documents"] == 3
    return [ConversationStore(prefix) for prefix in prepared.stores["train"].values()]


def samples(stores: list[ConversationStore], packed: bool, shape: SampleShape = SHAPE) -> InstructionSamples:
    return InstructionSamples(stores, Blend([3, 1], seed=1), shape, seed=7, packed=packed)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, WITH_NEIGHBORS])
def test_every_conversation_stands_whole_and_alone(
    packed: bool, shape: SampleShape, stores: list[ConversationStore]
) -> None:
    data = samples(stores, packed, shape)
    numbers = range(5, 9)
    batch = data[numbers]
    assert (packed or shape.num_neighbors > 0) == (batch.segments is not None)
    width = batch.tokens.shape[1]
    assert width == 1280 if packed else width % 64 == 0
    for row, number in enumerate(numbers):
        start, covered = 0, np.zeros(width, bool)
        for place, (store, conversation) in enumerate(data.places(number)):
            ids, mask = stores[store][conversation], stores[store].mask_of(conversation)
            reply = mask.tolist().index(1)
            begin = start + (-reply % 64 if shape.num_neighbors else 0)
            end = begin + len(ids) - 1
            assert batch.tokens[row, begin:end].tolist() == ids[:-1].tolist()
            assert batch.labels[row, begin:end].tolist() == ids[1:].tolist()
            assert batch.loss_mask[row, begin:end].tolist() == mask[1:].tolist()
            if batch.segments is not None:
                assert set(batch.segments[row, begin:end].tolist()) == {place}
            if shape.num_neighbors:
                assert start % 64 == 0
                assert (begin + reply) % 64 == 0, "the reply begins where a chunk does"
                assert batch.neighbor_tokens is not None
                assert batch.neighbor_mask is not None
                for k, neighbor in enumerate(stores[store].neighbors_of(conversation)):
                    for chunk in range(start // 64, -(-end // 64)):
                        kept = batch.neighbor_mask[row, chunk, k]
                        assert batch.neighbor_tokens[row, chunk, k][kept].tolist() == neighbor[:32].tolist()
            covered[begin:end] = True
            start = -(-end // 64) * 64 if shape.num_neighbors else end
        assert not batch.loss_mask[row][~covered].any()
        if batch.segments is not None:
            assert (batch.segments[row][~covered] == -1).all()


def test_neighbors_are_the_contexts(stores: list[ConversationStore]) -> None:
    tokenizer = ByteTokenizer()
    texts = [tokenizer.decode(ids.tolist()) for ids in stores[0].neighbors_of(0)]
    assert texts == ["title: The lamp, source: The lamp is cleaned every second morning."[:40],
                     "title: The stairs, source: The stairs are swept on Sundays."[:40]]  # fmt: skip
    assert [len(ids) for ids in stores[1].neighbors_of(0)] == [0, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_contexts_come_before_what_is_retrieved_and_that_before_nothing(
    packed: bool, stores: list[ConversationStore], tmp_path: Path
) -> None:
    """The conversations of `qa` have contexts, those of `chat` none; both have retrieved neighbors."""
    (tmp_path / "notes.txt").write_text("\n\n".join(f"Note {number}: an owl keeps the lamp." for number in range(9)))
    corpora = {"notes": CorpusConfig(str(tmp_path / "notes.txt"), separator="", split="train")}
    tokens = prepare_tokens(TokensConfig(corpora, TokenizerConfig("bytes")), tmp_path / "index", processes=1)
    prepare_retrieval(RetrievalConfig(16, embedder=EmbedderConfig(dimension=32)), tokens, tmp_path / "index")
    prefixes = {"train": {str(number): store.prefix for number, store in enumerate(stores)}}
    prepared = replace(tokens, stores=prefixes)
    found = retrieve_for_conversations(tmp_path / "index", 3, prepared, tmp_path)
    retrieved = [
        ConversationNeighbors(found.tables["train"][str(number)], store, found.database, ByteTokenizer.eod_id)
        for number, store in enumerate(stores)
    ]
    shape = SampleShape(1280, 16, num_neighbors=2, neighbor_length=32)
    rows = [[(0, 0), (1, 0)], [(1, 1)]] if packed else [[(0, 0)], [(1, 0)], [(1, 1)]]
    batch, without = (make_batch(stores, rows, shape, packed, given) for given in (retrieved, []))
    assert batch.neighbor_tokens is not None
    assert batch.neighbor_mask is not None
    assert without.neighbor_mask is not None
    for row, places in enumerate(rows):
        first = 0
        for store, conversation in places:
            num_chunks = shape.width(stores[store], conversation) // 16
            chunks = slice(first, first + num_chunks)
            if store == 0:
                expected = stores[0].neighbors_of(conversation)
                rest = range(chunks.start, chunks.stop)
                texts = {chunk: [ids[:32].tolist() for ids in expected] for chunk in rest}
            else:
                assert not without.neighbor_mask[row, chunks].any()
                ids = retrieved[1][conversation][:, :2]
                assert num_chunks - 1 <= len(ids) <= num_chunks
                tokens_of, mask_of = found.database.neighbor_tokens(ids, 2)
                texts = {
                    first + chunk: [row[kept].tolist() for row, kept in zip(*pair, strict=True)]
                    for chunk, pair in enumerate(zip(tokens_of, mask_of, strict=True))
                }
                assert not batch.neighbor_mask[row, first + len(ids) : chunks.stop].any()
            for chunk, neighbors in texts.items():
                pairs = zip(batch.neighbor_tokens[row, chunk], batch.neighbor_mask[row, chunk], strict=True)
                assert [ids[kept].tolist() for ids, kept in pairs] == neighbors
            first = chunks.stop
        assert not batch.neighbor_mask[row, first:].any()


@pytest.mark.parametrize("packed", [False, True])
def test_a_blend_is_drawn_whole_and_from_any_start(
    packed: bool, stores: list[ConversationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruction, "PACKED_TOGETHER", 16)
    data = samples(stores, packed)
    once = [data.places(number) for number in range(40)]
    again = samples(stores, packed)
    assert [again.places(number) for number in (30, 3, 17)] == [once[number] for number in (30, 3, 17)]
    drawn = [place for places in once[:30] for place in places]
    num_draws = data.num_draws(30)
    assert len(drawn) == num_draws
    if not packed:
        assert drawn == [data.place(draw) for draw in range(30)]
    counts = [sum(store == number for store, _ in drawn) for number in range(2)]
    assert counts[0] / counts[1] == pytest.approx(3, rel=0.4)
    # Every epoch of a store draws each of its conversations once.
    first = [data.orders[0][number] for number in range(3)]
    assert sorted(first) == [0, 1, 2]


def test_packing_fills_samples_and_loses_nothing(
    stores: list[ConversationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruction, "PACKED_TOGETHER", 16)
    data = samples(stores, packed=True)
    assert data.packing is not None
    number, seen = 0, []
    while len(seen) < 32:
        draws = data.packing.draws(number)
        assert sum(data.width(data.place(draw)) for draw in draws) <= 1280
        seen += draws
        number += 1
    assert sorted(seen) == list(range(32))
    assert number < 32 / 1.5, "two of most of them have room in a sample"


def test_evaluation_reads_every_conversation_once(stores: list[ConversationStore]) -> None:
    data = InstructionEvaluation(stores, SHAPE)
    assert len(data) == sum(map(len, stores))
    batch = data[range(len(data) + 1)]
    trained = sum(int(store.mask.sum()) for store in stores)
    assert int(batch.loss_mask.sum()) == trained
    assert not batch.loss_mask[-1].any()
    assert batch.segments is None


def test_a_store_without_its_mask_is_refused(stores: list[ConversationStore], tmp_path: Path) -> None:
    for suffix in (".bin", ".idx"):
        (tmp_path / f"train{suffix}").write_bytes(Path(f"{stores[0].prefix}{suffix}").read_bytes())
    with pytest.raises(ValueError, match=r"train\.mask: expected a byte for each of"):
        ConversationStore(tmp_path / "train")
