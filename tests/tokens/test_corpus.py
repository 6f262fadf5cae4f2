"""Reading corpora: every format gives the same documents, and bad records are named or counted."""

from __future__ import annotations

import builtins
import json
import lzma
from collections import Counter
from pathlib import Path

import pytest

from retrolit.tokens.config import CorpusConfig
from retrolit.tokens.corpus import contents_fingerprint, documents, open_corpus
from retrolit.tokens.readers import Document

SAMPLES = Path(__file__).parents[2] / "data/samples"


def read(source: Path | str, **options: object) -> list[Document]:
    config = CorpusConfig(str(source), **options)  # pyright: ignore[reportArgumentType]
    return list(documents(open_corpus(config), config, Counter()))


def skipped(source: Path, **options: object) -> tuple[list[str], dict[str, int]]:
    config = CorpusConfig(str(source), on_error="skip", **options)  # pyright: ignore[reportArgumentType]
    counts = Counter[str]()
    return [document.text for document in documents(open_corpus(config), config, counts)], dict(counts)


@pytest.fixture(scope="module")
def notes() -> list[str]:
    lines = (SAMPLES / "notes.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 12
    return texts


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "jsonl.zst", "parquet"])
def test_every_format_gives_the_same_documents(suffix: str, notes: list[str]) -> None:
    for package, ending in (("zstandard", "zst"), ("pyarrow", "parquet")):
        if suffix.endswith(ending):
            pytest.importorskip(package, reason="needs the extra data")
    found = read(SAMPLES / f"notes.{suffix}")
    assert [document.text for document in found] == notes
    assert found[6].source == f"notes.{suffix}:7"


def test_text_files_are_one_document_or_divided_by_a_line(notes: list[str]) -> None:
    [document] = read(SAMPLES / "lighthouse.txt")
    assert document == Document("lighthouse.txt", (SAMPLES / "lighthouse.txt").read_text())
    divided = read(SAMPLES / "notes.txt", separator="---")
    assert [document.text for document in divided] == notes
    assert divided[1].source == "notes.txt:3"


def test_headings_between_blank_lines_begin_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        " \n = One = \n \n = no blank line = \n = = Part = = \n \n text \n \n = Two = \n \n = it ends = \n"
    )
    config = CorpusConfig(str(tmp_path / "a.txt"), heading="^ = [^=].* = $")
    counts = Counter[str]()
    assert list(documents(open_corpus(config), config, counts)) == [
        Document("a.txt:2", " = One = \n \n = no blank line = \n = = Part = = \n \n text \n "),
        Document("a.txt:9", " = Two = \n \n = it ends = "),
    ]
    assert counts == {"empty document": 1}


def test_a_wikitext_is_divided_into_its_articles(shared: Path) -> None:
    folder = shared / "data/corpora/wikitext-2"
    articles = {split: len(read(folder / f"{split}.txt.gz", heading="^ = [^=].* = $")) for split in ("train", "valid")}
    assert articles == {"train": 600, "valid": 60}


@pytest.mark.parametrize("longest", [1, 2, 7, 40, 100, 1000])
def test_the_parts_of_a_long_document_are_no_longer_and_joined_are_the_whole(tmp_path: Path, longest: int) -> None:
    text = "One sentence. Another one, that goes on.\nA line.\n\nA paragraph.\n\n" + "x" * 150 + " end"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    found = read(tmp_path / "a.jsonl", longest=longest)
    assert all(0 < len(document.text) <= longest for document in found)
    joined = "".join(document.text for document in found)
    assert "".join(joined.split()) == "".join(text.split())  # blank parts are left out
    assert joined == text or longest <= 2
    assert len({document.source for document in found}) == len(found)


def test_a_long_document_is_cut_at_the_best_border_in_the_second_half_of_what_fits(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A b. C d e\nf g\n\nh i j k. l m n o p. q r s t u v w x y z")
    found = read(tmp_path / "a.txt", longest=20)
    assert [document.text for document in found] == [
        "A b. C d e\nf g\n\n",
        "h i j k. l m n o p. ",
        "q r s t u v w x y z",
    ]
    assert [document.source for document in found] == [
        "a.txt, from character 0", "a.txt, from character 16", "a.txt, from character 36",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heading": "^#", "separator": ""}, "by headings or by a separator, got both"),
        ({"heading": "(#"}, r"heading: expected a regular expression, got '\(#'"),
        ({"longest": 0}, "longest: expected at least 1 character, got 0"),
    ],
)
def test_impossible_cuts_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorpusConfig("a.txt", **options)  # pyright: ignore[reportArgumentType]


def test_a_compressed_table_is_unpacked(tmp_path: Path, notes: list[str]) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra data")
    (tmp_path / "notes.parquet.xz").write_bytes(lzma.compress((SAMPLES / "notes.parquet").read_bytes()))
    assert [document.text for document in read(tmp_path / "notes.parquet.xz")] == notes


def test_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
    assert [document.text for document in read(tmp_path / "a.txt")] == ["one\r\ntwo\r\n\r\nthree\r\n"]
    assert [document.text for document in read(tmp_path / "a.txt", separator="")] == ["one\r\ntwo", "three"]
    inside = "line and paragraph separators \u2028 \u2029 \x85 and a form feed \f end no record"
    record = json.dumps({"text": inside}, ensure_ascii=False)
    (tmp_path / "b.jsonl").write_text("\ufeff" + record + "\r\n\n" + record, encoding="utf-8", newline="")
    assert [document.text for document in read(tmp_path / "b.jsonl")] == [inside, inside]
    assert [document.source for document in read(tmp_path / "b.jsonl")] == ["b.jsonl:1", "b.jsonl:3"]


def test_folders_and_globs_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.txt", "b/1.jsonl", ".hidden/x.txt", "b/readme.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    assert [document.text for document in read(tmp_path)] == ["a.txt", "b/1.jsonl", "b/2.txt"]
    assert [document.source for document in read(tmp_path)] == ["a.txt", "b/1.jsonl:1", "b/2.txt"]
    assert [document.source for document in read(tmp_path / "b" / "*.txt")] == ["2.txt"]
    assert [document.source for document in read(tmp_path / "**" / "*.txt")] == ["a.txt", "b/2.txt"]


BROKEN = {
    "broken JSON": b'{"text": "cut off',
    "wrong encoding": b'{"text": "caf\xe9"}',
    "missing field": b'{"body": "x", "title": "y"}',
    "not text": b'{"text": 3}',
    "not an object": b'["text"]',
    "lone surrogate": b'{"text": "half a character: \\ud800"}',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_record_stops_with_file_and_line_or_is_counted(kind: str, tmp_path: Path) -> None:
    good = b'{"text": "good \\ud83e\\udd89"}'
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([good, BROKEN[kind], good]))
    with pytest.raises(ValueError, match=rf"x\.jsonl:2: {kind}: .*on_error: skip"):
        read(tmp_path / "x.jsonl")
    assert skipped(tmp_path / "x.jsonl") == (["good 🦉", "good 🦉"], {kind: 1})


def test_a_missing_field_names_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(BROKEN["missing field"])
    with pytest.raises(ValueError, match=r"expected the field 'text' \(text_field\), got body, title"):
        read(tmp_path / "x.jsonl")
    assert [document.text for document in read(tmp_path / "x.jsonl", text_field="body")] == ["x"]


def test_json_that_python_refuses_is_a_bad_record(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"[" * 100_000 + b'\n{"n": ' + b"9" * 10_000 + b"}\n")
    assert skipped(tmp_path / "x.jsonl") == ([], {"broken JSON": 2})


def test_wrong_encoding_in_text_files_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"one\n\ntwo\ncaf\xe9\n\nthree")
    with pytest.raises(ValueError, match=r"x\.txt:4: wrong encoding: expected UTF-8, got the byte 0xe9"):
        read(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"x\.txt:4: wrong encoding"):
        read(tmp_path / "x.txt", separator="")
    assert skipped(tmp_path / "x.txt", separator="") == (["one", "three"], {"wrong encoding": 1})


def test_empty_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')
    config = CorpusConfig(str(tmp_path / "x.jsonl"))
    counts = Counter[str]()
    assert [document.text for document in documents(open_corpus(config), config, counts)] == ["x"]
    assert counts == {"empty document": 2}


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_file_is_named_and_the_others_are_read(suffix: str, tmp_path: Path) -> None:
    if suffix == ".zst":
        pytest.importorskip("zstandard", reason="needs the extra data")
    whole = (SAMPLES / f"notes.jsonl{suffix}").read_bytes()
    (tmp_path / "c.txt").write_text("fine")
    for content in (whole[:-20], b"nonsense" + whole):
        (tmp_path / f"a.jsonl{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.jsonl\{suffix}: damaged file"):
            read(tmp_path)
        texts, counts = skipped(tmp_path)
        assert texts[-1] == "fine"
        assert counts["damaged file"] == 1


def test_zstd_frames_one_after_another(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs the extra data")
    frames = [zstandard.ZstdCompressor().compress(b'{"text": "%d"}\n' % i) for i in range(3)]
    (tmp_path / "x.jsonl.zst").write_bytes(b"".join(frames))
    assert [document.text for document in read(tmp_path / "x.jsonl.zst")] == ["0", "1", "2"]


def test_a_broken_table_is_a_damaged_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    assert skipped(tmp_path / "x.parquet") == ([], {"damaged file": 1})
    numbered = [f"text {i}" for i in range(3000)]
    parquet.write_table(pyarrow.table({"text": numbered}), tmp_path / "x.parquet", row_group_size=1000)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 60] = b"\xff" * 60
    (tmp_path / "x.parquet").write_bytes(content)
    assert skipped(tmp_path / "x.parquet") == (numbered[:1000], {"damaged file": 1})
    parquet.write_table(pyarrow.table({"text": ["a", None, "b"], "n": [1, 2, 3]}), tmp_path / "x.parquet")
    assert skipped(tmp_path / "x.parquet") == (["a", "b"], {"not text": 1})
    assert skipped(tmp_path / "x.parquet", text_field="n") == ([], {"not text": 3})
    with pytest.raises(
        ValueError, match=r"x\.parquet: missing field: expected the field 'body' \(text_field\), got n, text"
    ):
        read(tmp_path / "x.parquet", text_field="body")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere: expected a file, folder or glob .* got nothing by that name"
    ):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="got no readable files there"):
        read(tmp_path)
    (tmp_path / "x.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"x\.pdf: expected a name that ends in \.txt, .*\.jsonl, .*\.parquet"):
        read(tmp_path / "x.pdf")


@pytest.mark.parametrize(
    ("source", "package"), [("notes.jsonl.zst", "zstandard"), ("notes.parquet", "pyarrow"), ("hf:x", "datasets")]
)
def test_a_missing_package_names_the_extra(source: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really_import = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return really_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r'pip install "retrolit\[data\]"'):
        read(source if source.startswith("hf:") else SAMPLES / source)


def test_contents_follow_the_files_and_not_their_dates(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    corpus = open_corpus(CorpusConfig(str(path)))
    first = corpus.contents(None)
    path.touch()
    assert contents_fingerprint(corpus.contents(first)) == contents_fingerprint(first)
    trusted = {"a.txt": {**corpus.contents(None)["a.txt"], "sha256": "kept"}}
    assert corpus.contents(trusted) == trusted
    path.write_text("two")
    assert contents_fingerprint(corpus.contents(first)) != contents_fingerprint(first)


def test_position_reaches_size(notes: list[str]) -> None:
    corpus = open_corpus(CorpusConfig(str(SAMPLES / "notes.jsonl.gz")))
    assert corpus.position() == 0
    for _ in range(2):
        assert len(list(corpus.read())) == len(notes)
        assert corpus.position() == corpus.size == (SAMPLES / "notes.jsonl.gz").stat().st_size


def test_hugging_face_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    splits = {name: datasets.Dataset.from_dict({"text": [name, "x"], "n": [1, 2]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    assert [document.text for document in read(f"hf:{tmp_path / 'set'}")] == ["train", "x"]
    assert [document.text for document in read(f"hf:{tmp_path / 'set'}::test")] == ["test", "x"]
    assert read(f"hf:{tmp_path / 'set'}")[1].source == f"{tmp_path / 'set'}:2"
    corpus = open_corpus(CorpusConfig(f"hf:{tmp_path / 'set'}"))
    again = open_corpus(CorpusConfig(f"hf:{tmp_path / 'set'}"))
    assert corpus.contents(None) == again.contents(None)
    assert contents_fingerprint(corpus.contents(None)) == contents_fingerprint(again.contents(None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "CorpusConfig.on_error: expected stop or skip"),
        ({"split": "dev"}, "CorpusConfig.split: expected one of train, validation, test"),
        ({"weight": 0.0}, "CorpusConfig.weight: expected more than 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorpusConfig("x.txt", **options)
