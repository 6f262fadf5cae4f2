"""What `retrolit test` writes down, against windows read one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from retrolit import save_model
from retrolit.data import DataConfig
from retrolit.evaluation.overlap import chunk_overlap
from retrolit.models import GPT
from retrolit.storage import Manifest
from retrolit.tokens import write_store
from retrolit.tokens.config import CorpusConfig
from retrolit.training import Evaluation, RetroModule
from tests.training.small_retro import DECODER, RETRIEVAL, RETRO


@pytest.fixture
def tested(make_trainer, make_data, data_config, tmp_path):
    """A Retro of random weights, large enough that neighbors show, tested; its data and what it wrote."""
    torch.manual_seed(7)
    save_model(GPT(DECODER), tmp_path / "gpt")
    data = make_data(data=replace(data_config, retrieval=RETRIEVAL), num_neighbors=2)
    module = RetroModule(RETRO, retrofit_from=str(tmp_path / "gpt"))
    trainer = make_trainer(tmp_path / "run", callbacks=[Evaluation(num_resamples=100)])
    trainer.test(module, data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return module, data, logged, json.loads((tmp_path / "run/results.json").read_text())["splits"]["test"]


def test_all_readings_are_told_of_the_same_tokens(tested):
    _, data, logged, results = tested
    assert set(results["readings"]) == {"retrieved", "none", "random", "gpt"}
    assert results["tokens"] == sum(corpus.store.num_tokens - 1 for corpus in data.corpora["test"])
    assert results["readings"]["retrieved"]["loss"] == pytest.approx(logged["test/loss"], rel=1e-5)
    for name, key in (("none", "_none"), ("random", "_random"), ("gpt", "_gpt")):
        # The row in metrics.jsonl counts the first token's bytes too.
        bits = results["readings"][name]["bits_per_byte"]
        assert bits == pytest.approx(logged[f"test/bits_per_byte{key}"], rel=2e-3), name
        assert results["gain"][name] == pytest.approx(bits - results["readings"]["retrieved"]["bits_per_byte"])
    assert results["weights"] is None
    assert results["data"]["database"] == data.retrievers["test"][0].database.fingerprint


def test_the_curve_is_that_of_the_chunks(tested):
    module, data, _, results = tested
    (retriever,) = data.retrievers["test"]
    overlap = chunk_overlap(retriever)
    samples = data.evaluation_samples("test")
    nats = {0.125: [], 0.25: [], 0.5: [], 1.0: []}
    for number in range(len(samples)):
        batch = samples[[number]]
        with torch.no_grad():
            losses = module.loss(batch).tokens[0]
        start = samples.locate(number)[1]
        for label in range(int(batch.loss_mask.sum())):
            for most, kept in nats.items():
                if overlap[(start + 1 + label) // 8] <= most:
                    kept.append(float(losses[label]))
    for point in results["overlap_curve"]:
        expected = nats[point["at_most"]]
        assert point["tokens"] == len(expected)
        if expected:
            bits = sum(expected) / np.log(2) / point["bytes"]
            assert point["bits_per_byte"]["retrieved"] == pytest.approx(bits, rel=1e-4)
    assert 0 < len(nats[0.5]) < len(nats[1.0])


def test_tokens_are_told_apart_by_what_was_read_for_them(tested):
    """By looking at every label's neighbors; the first 7 labels of each window have none."""
    _, data, _, results = tested
    samples = data.evaluation_samples("test")
    counts = {"in": 0, "not in": 0, "nothing to read": 0}
    for number in range(len(samples)):
        batch = samples[[number]]
        assert batch.neighbor_tokens is not None
        assert batch.neighbor_mask is not None
        for label in range(int(batch.loss_mask.sum())):
            chunk = (label + 1) // 8 - 1
            read = batch.neighbor_tokens[0, chunk][batch.neighbor_mask[0, chunk]] if chunk >= 0 else torch.empty(0)
            group = "nothing to read" if not len(read) else "in" if batch.labels[0, label] in read else "not in"
            counts[group] += 1
    assert {name: part["tokens"] for name, part in results["in_neighbors"].items()} == counts
    assert min(counts.values()) > 0
    assert results["in_neighbors"]["nothing to read"]["gain"]["none"] == pytest.approx(0, abs=1e-6)


def test_the_best_and_the_worst_neighbors_are_those_of_the_largest_sums(tested):
    """Each chunk's labels read one by one, with neighbors and without."""
    module, data, _, results = tested
    (retriever,) = data.retrievers["test"]
    samples = data.evaluation_samples("test")
    bits = np.zeros(len(retriever.table))
    for number in range(len(samples)):
        batch, start = samples[[number]], samples.locate(number)[1]
        with torch.no_grad():
            saved = module.decoder.loss(batch.tokens, batch.labels).tokens[0] - module.loss(batch).tokens[0]
        for label in range(int(batch.loss_mask.sum())):
            bits[(start + 1 + label) // 8] += float(saved[label]) / np.log(2)
    order = np.argsort(bits)
    best, worst = results["neighbor_examples"]["best"], results["neighbor_examples"]["worst"]
    assert [example["chunk"] for example in best] == order[::-1][:3].tolist()
    assert [example["chunk"] for example in worst] == order[:3].tolist()
    assert [example["bits_saved"] for example in worst] == pytest.approx(bits[order[:3]], rel=1e-3)
    chunk = best[0]["chunk"]
    text = data.tokenizer.decode([id for id in retriever.store.tokens[8 * chunk - 8 : 8 * chunk] if id < 256])
    assert best[0]["query"] == text
    ids = [id for id in retriever.table[chunk - 1].tolist() if id >= 0][:2]
    assert [found["source"] for found in best[0]["neighbors"]] == [retriever.source(id) for id in ids]
    tokens, mask = retriever.database.neighbor_tokens(np.array(ids), 2)
    for found, own, there in zip(best[0]["neighbors"], tokens, mask, strict=True):
        assert found["chunk"] + found["continuation"] == data.tokenizer.decode(own[there].tolist())


@pytest.mark.parametrize("num_neighbors", [0, 2])
def test_a_stride_keeps_windows_inside_documents(
    make_trainer, make_data, make_module, data_config, num_neighbors, tmp_path
):
    """Each document's first token is not predicted, and the rest is read as it is alone."""
    data = make_data(data=replace(data_config, retrieval=RETRIEVAL), num_neighbors=num_neighbors)
    module = RetroModule(RETRO) if num_neighbors else make_module()
    trainer = make_trainer(tmp_path, callbacks=[Evaluation(stride=16, num_resamples=0)])
    trainer.test(module, data, verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())["splits"]["test"]
    (corpus,) = data.corpora["test"]
    assert results["tokens"] == corpus.store.num_tokens - len(corpus.store)
    assert results["data"]["stride"] == 16
    reading = "none" if num_neighbors else "gpt"
    nats = []
    for number in range(len(corpus.store)):
        document = torch.from_numpy(corpus.store[number].astype(np.int64))
        for label in range(1, len(document)):
            start = max(0, -(-(label - 32) // 16) * 16)
            with torch.no_grad():
                losses = module.decoder.loss(document[None, start:label], document[None, start + 1 : label + 1]).tokens
            nats.append(float(losses[0, -1]))
    assert results["readings"][reading]["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    if num_neighbors:
        assert results["in_neighbors"]["in"]["tokens"] > 0
        assert results["overlap_curve"][-1]["tokens"] == results["tokens"]


@pytest.fixture
def with_library(data_config, tmp_path):
    """The same data with a database-only corpus: all its documents, and one that is in no split."""
    words = Path(data_config.tokens.corpora["words"].source).read_text()
    (tmp_path / "library.jsonl").write_text(words + json.dumps({"text": "a book of its own"}) + "\n")
    library = CorpusConfig(str(tmp_path / "library.jsonl"), database_only=True)
    tokens = replace(data_config.tokens, corpora=data_config.tokens.corpora | {"library": library})
    return DataConfig(str(tmp_path / "prepared"), tokens, RETRIEVAL)


def test_a_database_only_corpus_is_never_drawn_from_and_takes_no_part_in_a_gpt(
    make_data, with_library, data_config, tmp_path
):
    data, plain = make_data(data=with_library, num_neighbors=2), make_data()
    gpt = make_data(data=with_library)
    for each in (data, plain, gpt):
        each.prepare_data()
        each.open()
    assert [{split: [c.name for c in corpora] for split, corpora in each.corpora.items()} for each in (data, gpt)] == [
        {split: ["words"] for split in ("train", "validation", "test")}
    ] * 2
    assert data.fingerprint == gpt.fingerprint == plain.fingerprint
    numbers = range(40)
    assert torch.equal(data.training_samples()[numbers].tokens, plain.training_samples()[numbers].tokens)
    assert (list(data.database_only), gpt.database_only) == (["library"], {})
    assert len(data.retrievers["train"][0].database.stores) == 2


def test_evaluation_documents_in_a_database_only_corpus_are_refused(make_trainer, make_data, with_library, tmp_path):
    """`prepare` leaves them out; here they are put back."""
    data = make_data(data=with_library, num_neighbors=2)
    make_trainer(tmp_path, callbacks=[Evaluation(num_resamples=0)]).test(RetroModule(RETRO), data, verbose=False)
    assert json.loads((tmp_path / "results.json").read_text())["splits"]["test"]["leakage"]["documents"] == 0
    (corpus,) = data.corpora["test"]
    prefix = data.database_only["library"].prefix
    write_store(prefix, [corpus.store[0].tolist()], 257, ["kept.jsonl:7"])
    manifest = Manifest.read(prefix.parent, "tokens")
    replace(manifest, files={name: {} for name in manifest.files}).write(prefix.parent)
    again = make_data(data=with_library, num_neighbors=2)
    with pytest.raises(
        ValueError, match=r"test split: words\.jsonl:\d+ of words \(as kept.jsonl:7 of library\) is among"
    ):
        make_trainer(tmp_path, callbacks=[Evaluation()]).test(RetroModule(RETRO), again, verbose=False)


@pytest.mark.parametrize("stride", [0, 4, 40])
def test_a_stride_that_does_not_fit_is_refused(make_trainer, make_data, make_module, stride, tmp_path):
    with pytest.raises(
        ValueError, match=rf"evaluation.stride: expected a multiple of data.chunk_length \(8\) up to .*got {stride}"
    ):
        make_trainer(tmp_path, callbacks=[Evaluation(stride=stride)]).test(make_module(), make_data(), verbose=False)
