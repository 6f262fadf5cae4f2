"""From corpora to stores: complete, reproducible, resumable, and never half done."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrolit.storage import Damaged, Manifest
from retrolit.storage.blocks import Arrays, Share
from retrolit.tokens import TokenStore, load_tokenizer, prepare_stores
from retrolit.tokens import prepare as prepare_module
from retrolit.tokens.config import SPLITS
from retrolit.tokens.prepare import (
    CorpusConfig,
    PreparedTokens,
    TokenizerConfig,
    TokensConfig,
    prepare_tokens,
    prepare_tokens_share,
)
from retrolit.tokens.readers import Document

TEXTS = [f"Owl number {i} reads <|endoftext|> in volume {i * i}.\n" + "Quiet. " * (i % 40) for i in range(300)]
HALVES = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "owls.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_stores, "BLOCK_CHARACTERS", 2_000)
    monkeypatch.setattr(prepare_module, "default_processes", lambda: 1)


@pytest.fixture
def library(corpus: Path, tmp_path: Path) -> TokensConfig:
    """The owls, and a database-only corpus that holds all of them and more."""
    more = [f"Book number {i} of the library. " * (i % 9 + 1) for i in range(100)]
    lines = [json.dumps({"text": text}) + "\n" for text in [*more[:50], *TEXTS, *more[50:]]]
    (tmp_path / "library.jsonl").write_text("".join(lines))
    database_only = CorpusConfig(str(tmp_path / "library.jsonl"), database_only=True)
    return TokensConfig({"library": database_only, **config(corpus).corpora}, TokenizerConfig("bytes"), dict(HALVES))


def config(corpus: Path, tokenizer: TokenizerConfig | None = None, **options: Any) -> TokensConfig:
    return TokensConfig(
        {"owls": CorpusConfig(str(corpus), **options)}, tokenizer or TokenizerConfig("bytes"), dict(HALVES)
    )


def files(prepared: PreparedTokens) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.folders["owls"].iterdir()}


@pytest.fixture
def whole(corpus: Path, tmp_path: Path) -> dict[str, bytes]:
    """The bytes that one process gives without interruption."""
    prepared = prepare_tokens(config(corpus), tmp_path / "whole", processes=1)
    assert not list((tmp_path / "whole/tokens").glob(".*.work")), "blocks of finished work are removed"
    return files(prepared)


@pytest.mark.parametrize("tokenizer", [TokenizerConfig("bytes"), TokenizerConfig("bpe", vocab_size=300)])
def test_every_document_is_in_one_split_and_whole(tokenizer: TokenizerConfig, corpus: Path, tmp_path: Path) -> None:
    prepared = prepare_tokens(config(corpus, tokenizer), tmp_path / "p")
    codec = load_tokenizer(prepared.tokenizer_folder)
    found = {}
    for split in SPLITS:
        store = TokenStore(prepared.stores[split]["owls"])
        assert len(store) > 30
        for i in range(len(store)):
            assert store[i][-1] == codec.eod_id
            assert codec.eod_id not in store[i][:-1], "no document forges its own end"
            assert store.source(i) not in found
            found[store.source(i)] = codec.decode(store[i].tolist())
        texts = [found[store.source(i)] for i in range(len(store))]
        counts = prepared.manifests["owls"].sizes[split]
        assert counts == {
            "documents": len(store),
            "tokens": store.num_tokens,
            "bytes": sum(len(text.encode()) for text in texts),
        }
        assert store.fingerprint == TokenStore(store.prefix).fingerprint
    assert found == {f"owls.jsonl:{i}": text for i, text in enumerate(TEXTS, 1)}


def test_several_processes_give_the_same_bytes(whole: dict[str, bytes], corpus: Path, tmp_path: Path) -> None:
    assert files(prepare_tokens(config(corpus), tmp_path / "two", processes=2)) == whole


def test_several_machines_give_the_same_bytes(whole: dict[str, bytes], corpus: Path, tmp_path: Path) -> None:
    """Rank 2 of three never comes; rank 0 does its blocks."""
    for _ in range(2):
        assert prepare_tokens_share(config(corpus), tmp_path / "p", Share(1, 3)) is None
    first = prepare_tokens_share(config(corpus), tmp_path / "p", Share(0, 3))
    assert first is not None
    assert files(first) == whole
    late = prepare_tokens_share(config(corpus), tmp_path / "p", Share(2, 3))
    assert late == first
    assert not list((tmp_path / "p/tokens").glob(".*.work"))


def test_killed_anywhere_and_run_again(whole: dict[str, bytes], corpus: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import time
from retrolit.tokens import prepare, prepare_stores
from retrolit.tokens.prepare import *

prepare_stores.BLOCK_CHARACTERS = 2_000

class Slow(prepare.Tokenizing):
    def __call__(self, documents):
        time.sleep(0.15)
        return super().__call__(documents)

prepare.Tokenizing = Slow
corpora = {{"owls": CorpusConfig({str(corpus)!r})}}
config = TokensConfig(corpora, TokenizerConfig("bytes"), {HALVES!r})
prepare_tokens(config, {str(tmp_path / "killed")!r}, processes=1)
""")
    kills = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, str(script)])
        done = len(list((tmp_path / "killed").glob("tokens/.*.work/*.block")))
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and len(list((tmp_path / "killed").glob("tokens/.*.work/*.block"))) < done + 2
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 4
    left = sorted((tmp_path / "killed").glob("tokens/.*.work/*.block"))
    assert len(left) >= 8
    left[1].write_bytes(left[1].read_bytes()[:-7])  # a block that the disk lost a part of
    (left[0].parent / "whole").mkdir()  # as a run that was killed while joining leaves it
    (left[0].parent / "whole" / "train.bin").write_bytes(b"half")
    assert files(prepare_tokens(config(corpus), tmp_path / "killed", processes=1)) == whole


def test_what_is_finished_is_only_opened(corpus: Path, tmp_path: Path) -> None:
    wanted = config(corpus, TokenizerConfig("bpe", vocab_size=300))
    first = prepare_tokens(wanted, tmp_path / "p")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*") if path.suffix != ".lock"}
    corpus.touch()
    assert prepare_tokens(wanted, tmp_path / "p") == first
    corpus.unlink()
    assert prepare_tokens(wanted, tmp_path / "p") == first, "finished stores need no corpus"
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed <= {tmp_path / "p", tmp_path / "p/sources.json"}
    with pytest.raises(FileNotFoundError, match=r"owls\.jsonl: expected a file, folder or glob"):
        prepare_tokens(config(corpus, text_field="body"), tmp_path / "p")


def test_other_settings_make_another_folder(corpus: Path, tmp_path: Path) -> None:
    first = prepare_tokens(config(corpus), tmp_path / "p")
    before = files(first)
    other_splits = TokensConfig({"owls": CorpusConfig(str(corpus))}, TokenizerConfig("bytes"), {"train": 1.0})
    others = [
        prepare_tokens(other_splits, tmp_path / "p"),
        prepare_tokens(config(corpus, TokenizerConfig("bpe", 300)), tmp_path / "p"),
        prepare_tokens(config(corpus, split="test"), tmp_path / "p"),
    ]
    corpus.write_text(json.dumps({"text": "another text"}))
    others.append(prepare_tokens(config(corpus), tmp_path / "p"))
    assert len({prepared.folders["owls"] for prepared in [first, *others]}) == 5
    assert len({prepared.fingerprint for prepared in [first, *others]}) == 5
    assert files(first) == before
    assert list(others[0].stores["train"]) == ["owls"]
    assert others[0].stores["test"] == {}
    assert others[2].manifests["owls"].sizes["test"]["documents"] == len(TEXTS)


def test_splits_do_not_depend_on_order_and_duplicates_stay_together(corpus: Path, tmp_path: Path) -> None:
    def contents(prepared: PreparedTokens) -> dict[str, set[bytes]]:
        stores = {split: TokenStore(prepared.stores[split]["owls"]) for split in SPLITS}
        return {split: {store[i].tobytes() for i in range(len(store))} for split, store in stores.items()}

    first = prepare_tokens(config(corpus), tmp_path / "p")
    shuffled = [*TEXTS, *TEXTS[:20]]
    random.Random(0).shuffle(shuffled)
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in shuffled))
    second = prepare_tokens(config(corpus), tmp_path / "p")
    assert contents(first) == contents(second)
    assert first.manifests["owls"].sizes["duplicates"] == 0
    assert second.manifests["owls"].sizes["duplicates"] == 20
    everything = contents(second)
    assert not everything["train"] & everything["test"]


def test_a_tokenizer_learns_from_train_documents_alone(tmp_path: Path) -> None:
    """Two corpora of one made-up word each; only the word that is in train becomes a token."""
    for name, word in (("a", "zyxwvut"), ("b", "qponmlk")):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{word} {word} number {i}"}) + "\n" for i in range(200))
        )
    corpora = {
        "a": CorpusConfig(str(tmp_path / "a.jsonl"), split="train"),
        "b": CorpusConfig(str(tmp_path / "b.jsonl"), split="test"),
    }
    prepared = prepare_tokens(TokensConfig(corpora, TokenizerConfig("bpe", vocab_size=290)), tmp_path / "p")
    codec = load_tokenizer(prepared.tokenizer_folder)
    assert len(codec.encode("zyxwvut")) == 1
    assert len(codec.encode("qponmlk")) == 7
    assert (list(prepared.stores["train"]), list(prepared.stores["test"])) == (["a"], ["b"])


def test_a_tokenizer_file_is_copied_and_named_in_the_manifests(shared: Path, corpus: Path, tmp_path: Path) -> None:
    wanted = TokenizerConfig("file", path=str(shared / "data/tokenizers/gpt2"))
    prepared = prepare_tokens(config(corpus, wanted), tmp_path / "p")
    codec = load_tokenizer(prepared.tokenizer_folder)
    assert codec.vocab_size == 50257
    manifest = Manifest.read(prepared.folders["owls"], "tokens")
    assert manifest.inputs["tokenizer"] == codec.fingerprint
    assert Manifest.read(prepared.tokenizer_folder, "tokenizer").inputs["tokenizer"] == codec.fingerprint
    manifest.verify(prepared.folders["owls"], deep=True)


def test_going_on_after_a_bad_record(
    whole: dict[str, bytes], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join([*lines[:200], "broken\n", *lines[200:]]))
    with pytest.raises(ValueError, match=r"owls\.jsonl:201: broken JSON"):
        prepare_tokens(config(corpus), tmp_path / "p")
    kept = len(list((tmp_path / "p").glob("tokens/.*.work/*.block")))
    assert kept > 2
    done = []

    class Counting(prepare_module.Tokenizing):
        def __call__(self, documents: list[Document]) -> Arrays:
            done.append(documents[0].source)
            return super().__call__(documents)

    monkeypatch.setattr(prepare_module, "Tokenizing", Counting)
    prepared = prepare_tokens(config(corpus, on_error="skip"), tmp_path / "p")
    resumed = len(done)
    prepare_tokens(config(corpus, on_error="skip"), tmp_path / "from the start")
    assert len(done) == resumed + resumed + kept, "blocks that were finished before the mistake are kept"
    assert prepared.manifests["owls"].sizes["skipped"] == {"broken JSON": 1}
    assert {name: data for name, data in files(prepared).items() if name.endswith((".bin", ".idx"))} == {
        name: data for name, data in whole.items() if name.endswith((".bin", ".idx"))
    }
    with pytest.raises(ValueError, match=r"lacks records \(1 x broken JSON\), this run asks for on_error: stop"):
        prepare_tokens(config(corpus), tmp_path / "p")


def test_a_full_disk_leaves_what_was_there(whole: dict[str, bytes], corpus: Path, tmp_path: Path) -> None:
    """A limit on file sizes makes the system refuse writes as a full disk does: first blocks, then the joined store."""
    first = prepare_tokens(config(corpus), tmp_path / "p")
    for limit in (1_000, 20_000):
        script = f"""
import resource
from retrolit.tokens import prepare, prepare_stores
from retrolit.tokens.prepare import *
prepare_stores.BLOCK_CHARACTERS = 2_000
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
config = TokensConfig({{"owls": CorpusConfig({str(corpus)!r})}}, TokenizerConfig("bytes"), {{"train": 1.0}})
try:
    prepare_tokens(config, {str(tmp_path / "p")!r}, processes=1)
except OSError as error:
    print(error.filename)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert str(tmp_path / "p/tokens/.owls-") in done.stdout
        assert prepare_tokens(config(corpus), tmp_path / "p") == first
        assert files(first) == whole
        assert not list((tmp_path / "p").rglob("*.partial"))
    everything = TokensConfig({"owls": CorpusConfig(str(corpus))}, TokenizerConfig("bytes"), {"train": 1.0})
    prepared = prepare_tokens(everything, tmp_path / "p")
    assert prepared.manifests["owls"].sizes["train"]["documents"] == len(TEXTS)


def test_damaged_stores_are_made_again_as_long_as_their_corpus_is_there(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare_tokens(config(corpus), tmp_path / "p")
    stores = prepared.folders["owls"]
    whole = files(prepared)
    (stores / "train.bin").write_bytes(whole["train.bin"][:100])
    (prepared.tokenizer_folder / "retrolit_tokenizer.json").unlink()
    assert prepare_tokens(config(corpus), tmp_path / "p") == prepared
    assert files(prepared) == whole
    assert "train.bin: expected" in caplog.text
    assert "retrolit_tokenizer.json: the file is missing" in caplog.text
    (stores / "train.bin").write_bytes(whole["train.bin"][:100])
    corpus.unlink()
    with pytest.raises(Damaged, match=r"train\.bin: expected [\d,]+ bytes, got 100; make it again with: retrolit prep"):
        prepare_tokens(config(corpus), tmp_path / "p")


def texts_of(prefix: Path) -> list[str]:
    """Of a store of bytes."""
    store = TokenStore(prefix)
    return [bytes(store[i][:-1].tolist()).decode() for i in range(len(store))]


def test_a_database_only_corpus_goes_whole_to_its_store_but_for_evaluation_documents(
    library: TokensConfig, corpus: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    prepared = prepare_tokens(library, tmp_path / "p")
    assert all(list(prepared.stores[split]) == ["owls"] for split in SPLITS)
    assert files(prepared) == whole, "the trained corpus is what it is without"
    assert prepared.fingerprint == prepare_tokens(config(corpus), tmp_path / "p").fingerprint
    assert list(prepared.folders) == list(prepared.manifests) == ["library", "owls"]
    evaluated = {text for split in ("validation", "test") for text in texts_of(prepared.stores[split]["owls"])}
    everything = [json.loads(line)["text"] for line in (tmp_path / "library.jsonl").read_text().splitlines()]
    kept = texts_of(prepared.database["library"])
    assert kept == [text for text in everything if text not in evaluated]
    store = TokenStore(prepared.database["library"])
    assert store.source(0) == "library.jsonl:1"
    assert prepared.manifests["library"].sizes == {
        "database": {
            "documents": len(store),
            "tokens": store.num_tokens,
            "bytes": sum(len(text.encode()) for text in kept),
        },
        "duplicates": 0,
        "evaluation_documents": len(evaluated),
        "skipped": {},
    }
    assert len(evaluated) > 100
    assert prepare_tokens(library, tmp_path / "p") == prepared


def test_a_database_only_corpus_has_the_same_bytes_however_it_is_made(library: TokensConfig, tmp_path: Path) -> None:
    """Killed before it is joined, and by three machines of which one never comes."""

    def made(prepared: PreparedTokens) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in prepared.folders["library"].iterdir()}

    alone = made(prepare_tokens(library, tmp_path / "alone"))
    assert sorted(alone) == ["database.bin", "database.idx", "database.sources", "manifest.json"]
    folder = tmp_path / "shared"
    assert prepare_tokens_share(library, folder, Share(1, 3)) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "join_database", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_tokens_share(library, folder, Share(0, 3))
    # Rank 1 finds the owls whole now, and does its share of the library again and again.
    assert list((folder / "tokens").glob("owls-*"))
    for _ in range(2):
        assert prepare_tokens_share(library, folder, Share(1, 3)) is None
    first = prepare_tokens_share(library, folder, Share(0, 3))
    assert first is not None
    assert made(first) == alone
    assert prepare_tokens_share(library, folder, Share(2, 3)) == first
    assert not list((folder / "tokens").glob(".*.work"))


def test_a_database_only_corpus_is_made_again_when_the_evaluation_documents_change(
    library: TokensConfig, corpus: Path, tmp_path: Path
) -> None:
    """A document that comes to the owls' test split leaves the library; one that comes to train changes nothing."""
    first = prepare_tokens(library, tmp_path / "p")
    test = replace(library, corpora=library.corpora | {"new": CorpusConfig(str(tmp_path / "new.jsonl"), split="test")})
    (tmp_path / "new.jsonl").write_text(json.dumps({"text": "Book number 9 of the library. "}) + "\n")
    second = prepare_tokens(test, tmp_path / "p")
    sizes = [prepared.manifests["library"].sizes["evaluation_documents"] for prepared in (first, second)]
    assert sizes[1] == sizes[0] + 1
    assert first.folders["library"].exists()
    train = replace(test, corpora=library.corpora | {"new": CorpusConfig(str(tmp_path / "new.jsonl"), split="train")})
    assert prepare_tokens(train, tmp_path / "p").folders["library"] == first.folders["library"]


def test_documents_appended_to_a_database_only_corpus_come_last(library: TokensConfig, tmp_path: Path) -> None:
    before = texts_of(prepare_tokens(library, tmp_path / "p").database["library"])
    with open(tmp_path / "library.jsonl", "a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    after = texts_of(prepare_tokens(library, tmp_path / "p").database["library"])
    assert after[:-1] == before


def test_a_database_only_corpus_of_evaluation_documents_alone_has_no_store(library: TokensConfig, corpus: Path) -> None:
    corpora = {
        "owls": CorpusConfig(str(corpus), split="test"),
        "library": CorpusConfig(str(corpus), database_only=True),
    }
    prepared = prepare_tokens(replace(library, corpora=corpora), corpus.parent / "p")
    assert prepared.database == {}
    assert prepared.manifests["library"].sizes["evaluation_documents"] == len(TEXTS)


def test_a_tokenizer_does_not_learn_from_a_database_only_corpus(library: TokensConfig, tmp_path: Path) -> None:
    bpe = replace(library, tokenizer=TokenizerConfig("bpe", vocab_size=300))
    alone = replace(bpe, corpora=bpe.trained)
    folders = {prepare_tokens(each, tmp_path / "p").tokenizer_folder for each in (bpe, alone)}
    assert len(folders) == 1


def interrupted(*_: Any, **__: Any) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_a_corpus_without_documents_is_refused(corpus: Path, tmp_path: Path) -> None:
    corpus.write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match=r"corpus owls: .*owls\.jsonl holds nothing to read"):
        prepare_tokens(config(corpus), tmp_path / "p")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokensConfig({}), "TokensConfig.corpora: expected at least one corpus"),
        (lambda: TokensConfig({"a/b": CorpusConfig("x")}), "a name is made of letters, digits, - and _; got 'a/b'"),
        (
            lambda: TokensConfig({"a": CorpusConfig("x", weight=1), "b": CorpusConfig("y")}),
            "b lack a weight; give one to all corpora or to none",
        ),
        (
            lambda: CorpusConfig("x", weight=2, database_only=True),
            "CorpusConfig.weight: a database_only corpus is neither trained nor evaluated on, got 2",
        ),
        (
            lambda: CorpusConfig("x", split="train", database_only=True),
            "CorpusConfig.split: a database_only corpus is neither trained nor evaluated on, got train",
        ),
        (
            lambda: TokensConfig({"a": CorpusConfig("x", database_only=True)}),
            r"TokensConfig.corpora: expected at least one corpus to train on, got only database_only ones \(a\)",
        ),
        (
            lambda: TokensConfig({"a": CorpusConfig("x", weight=1), "b/c": CorpusConfig("y", database_only=True)}),
            "a name is made of letters, digits, - and _; got 'b/c'",
        ),
        (lambda: TokensConfig({"a": CorpusConfig("x")}, splits={"train": 0.5}), "expected shares that add up to 1"),
        (
            lambda: TokensConfig({"a": CorpusConfig("x")}, splits={"dev": 1.0}),
            "expected shares of train, validation, test",
        ),
        (lambda: TokenizerConfig("words"), "TokenizerConfig.type: expected bytes, bpe or file"),  # pyright: ignore
        (lambda: TokenizerConfig("file"), "TokenizerConfig.path: expected with type file and no other"),
        (lambda: TokenizerConfig("bpe", vocab_size=100), "TokenizerConfig.vocab_size: expected at least 257"),
        (
            lambda: TokenizerConfig("bpe", sample_characters=0),
            "TokenizerConfig.sample_characters: expected more than 0",
        ),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
