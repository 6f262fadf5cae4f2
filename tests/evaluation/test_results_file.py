"""results.json."""

from __future__ import annotations

import pytest

from retrolit import save_model
from retrolit.evaluation.results_file import read_results, weights_fingerprint, write_results
from retrolit.models import GPT, GPTConfig
from retrolit.storage import Manifest, write_json


def test_a_split_takes_the_place_of_itself_alone(tmp_path):
    assert read_results(tmp_path) == {}
    write_results(tmp_path, "test", {"tokens": 1})
    write_results(tmp_path, "validation", {"tokens": 2})
    assert write_results(tmp_path, "test", {"tokens": 3}) == tmp_path / "results.json"
    assert read_results(tmp_path) == {"test": {"tokens": 3}, "validation": {"tokens": 2}}


@pytest.mark.parametrize("content", [{"format_version": 7, "splits": {}}, []])
def test_another_version_is_refused(content, tmp_path):
    write_json(tmp_path / "results.json", content)
    with pytest.raises(ValueError, match=r"results.json: format_version: expected 1, got .*; move it away"):
        read_results(tmp_path)


def test_weights_are_known_by_what_they_are(tmp_path):
    """A model folder by its manifest, a checkpoint by its bytes, a folder of shards by all of them."""
    sizes = {"vocab_size": 9, "hidden_size": 4, "num_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 4}
    save_model(GPT(GPTConfig(**sizes)), tmp_path / "model")
    assert weights_fingerprint(tmp_path / "model") == Manifest.read(tmp_path / "model", "model").fingerprint
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "0").write_bytes(b"a")
    before = {weights_fingerprint(shards), weights_fingerprint(shards / "0")}
    (shards / "0").write_bytes(b"b")
    assert len(before | {weights_fingerprint(shards), weights_fingerprint(shards / "0")}) == 4
