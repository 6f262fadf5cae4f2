"""Bytes and words of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.evaluation.text_sizes import text_sizes
from retrolit.tokens import ByteTokenizer, TokenStore, write_store
from retrolit.tokens.bpe import train_bpe

TEXTS = ["two  words", "", "ÀÉÎ 東京 and 🦉 sat", "the cat sat on the mat, the cat sat on the mat"]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), train_bpe(TEXTS, 270)], ids=["bytes", "bpe"])
def test_they_add_up_to_the_text(tokenizer, tmp_path):
    documents = [[*tokenizer.encode(text), tokenizer.eod_id] for text in TEXTS]
    write_store(tmp_path / "store", documents, tokenizer.vocab_size)
    num_bytes, num_words = text_sizes(TokenStore(tmp_path / "store"), tokenizer)
    assert num_words.tolist() == [2, 0, 5, 12]
    start = 0
    for text, document in zip(TEXTS, documents, strict=True):
        of_document = num_bytes[start : start + len(document)]
        assert of_document.sum() == pytest.approx(len(text.encode()))
        assert of_document[-1] == 0
        assert np.delete(of_document, -1).all()
        if text.isascii():
            assert of_document[:-1].tolist() == [len(tokenizer.decode([i])) for i in document[:-1]]
        start += len(document)
