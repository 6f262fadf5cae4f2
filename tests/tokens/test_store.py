"""Token stores: Megatron's bytes, read and written."""

from __future__ import annotations

import json
import pickle
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from retrolit.tokens import StoreWriter, TokenStore, token_dtype, write_store

DOCUMENTS = [[1, 2, 3, 9], [9], [4, 5, 9]]


@pytest.mark.parametrize("name", ["vocab_50k_uint16", "vocab_256k_int32"])
def test_reads_what_megatron_wrote(shared: Path, name: str) -> None:
    folder = shared / "fixtures/megatron/indexed_dataset"
    expected = json.loads((folder / f"{name}.json").read_text())
    store = TokenStore(folder / name)
    assert store.dtype == np.dtype(expected["dtype"]) == token_dtype(expected["vocab_size"])
    assert len(store) == len(expected["documents"]) > 0
    for i, sequences in enumerate(expected["documents"]):
        assert store[i].tolist() == [*chain(*sequences)]
    assert store.source(2) == "document 2"


@pytest.mark.parametrize("name", ["vocab_50k_uint16", "vocab_256k_int32"])
def test_writes_megatrons_bytes(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "fixtures/megatron/indexed_dataset"
    expected = json.loads((folder / f"{name}.json").read_text())
    write_store(
        tmp_path / "ours", ([*chain(*sequences)] for sequences in expected["documents"]), expected["vocab_size"]
    )
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (folder / f"{name}{suffix}").read_bytes()
    assert TokenStore(tmp_path / "ours").fingerprint == TokenStore(folder / name).fingerprint


def test_documents_starts_and_sources_agree(tmp_path: Path) -> None:
    write_store(tmp_path / "train", DOCUMENTS, 10, sources=["a.jsonl:1", "ä/b.txt", ""])
    store = TokenStore(tmp_path / "train")
    assert [store[i].tolist() for i in range(len(store))] == DOCUMENTS
    assert store[-1].tolist() == DOCUMENTS[-1]
    assert store.num_tokens == len(store.tokens) == 8
    assert store.document_starts.tolist() == [0, 4, 5, 8]
    assert store.document_starts.dtype == np.int64
    assert [store.source(i) for i in range(3)] == ["a.jsonl:1", "ä/b.txt", ""]
    with pytest.raises(IndexError, match="document 3 of 3"):
        store[3]


def test_documents_of_several_sequences(tmp_path: Path) -> None:
    """Megatron can store a document as several sequences (its sentences); a document is all of them."""
    ids = np.arange(6, dtype=np.uint16)
    lengths, documents = [2, 1, 3], [0, 2, 3]
    (tmp_path / "s.bin").write_bytes(ids.tobytes())
    (tmp_path / "s.idx").write_bytes(
        struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, 3, 3)
        + np.array(lengths, "<i4").tobytes()
        + np.array([0, 4, 6], "<i8").tobytes()
        + np.array(documents, "<i8").tobytes()
        + bytes(3)  # a multimodal index ends in one mode byte a sequence
    )
    store = TokenStore(tmp_path / "s")
    assert [store[i].tolist() for i in range(2)] == [[0, 1, 2], [3, 4, 5]]
    assert store.document_starts.tolist() == [0, 3, 6]


def test_more_than_two_to_the_31_tokens(tmp_path: Path) -> None:
    """A sparse file of 6 GB: offsets beyond 32 bits are exact."""
    length, count = 1_000_000_007, 3
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(2 * length * count)
        file.seek(2 * (length * count - 1))
        file.write(struct.pack("<H", 77))
    (tmp_path / "big.idx").write_bytes(
        struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, count, count + 1)
        + np.full(count, length, "<i4").tobytes()
        + (np.arange(count, dtype="<i8") * 2 * length).tobytes()
        + np.arange(count + 1, dtype="<i8").tobytes()
    )
    store = TokenStore(tmp_path / "big")
    assert store.num_tokens == length * count > 2**31
    assert store.document_starts.tolist() == [0, length, 2 * length, 3 * length]
    assert len(store[2]) == length
    assert store[2][-1] == 77


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    write_store(tmp_path / "none", [], 10)
    store = TokenStore(tmp_path / "none")
    assert len(store) == store.num_tokens == len(store.tokens) == 0
    assert store.document_starts.tolist() == [0]


def test_opening_writes_nothing_and_travels_to_workers(tmp_path: Path) -> None:
    write_store(tmp_path / "train", DOCUMENTS, 10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    store = pickle.loads(pickle.dumps(TokenStore(tmp_path / "train")))
    assert store[0].tolist() == DOCUMENTS[0]
    with pytest.raises(ValueError, match="read-only"):
        store.tokens[0] = 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_width_follows_the_vocabulary_and_never_wraps(tmp_path: Path) -> None:
    assert token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == np.int32
    with pytest.raises(ValueError, match="expected ids from 0 to 9, got 70000 to 70000"):
        write_store(tmp_path / "train", [[70_000]], 10)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_writer_leaves_the_old_store(tmp_path: Path) -> None:
    write_store(tmp_path / "train", DOCUMENTS, 10)

    def fail() -> None:
        with StoreWriter(tmp_path / "train", 10) as writer:
            writer.add(np.array([1]), np.array([1]), ["x"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(TokenStore(tmp_path / "train")) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "train", DOCUMENTS, 10)
    files = {suffix: (tmp_path / f"train{suffix}").read_bytes() for suffix in (".bin", ".idx", ".sources")}

    def refused(suffix: str, content: bytes, message: str) -> None:
        for name, old in files.items():
            (tmp_path / f"train{name}").write_bytes(old)
        (tmp_path / f"train{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            TokenStore(tmp_path / "train")

    index = files[".idx"]
    refused(".bin", files[".bin"][:-1], "expected 16 bytes as train.idx says, got 15")
    refused(".idx", b"nonsense", "expected Megatron's index")
    refused(".idx", index[:-1], "expected 102 bytes for 3 sequences, got 101")
    refused(".idx", index[:9] + b"\x02" + index[10:], "expected version 1 of Megatron's index, got 2")
    refused(".idx", index[:17] + b"\x07" + index[18:], "expected a type code of whole numbers")
    refused(".idx", index[:-1] + b"\x01", "do not cover its 3 sequences")
    refused(".sources", b"", "expected the sources of 3 documents")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bin: expected a token store"):
        TokenStore(tmp_path / "nowhere")
