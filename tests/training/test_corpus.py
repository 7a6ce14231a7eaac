"""Texts arrive whole, named once, and bad files say what is wrong with them."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion_core import TextError
from training.config import parse
from training.corpus import PART_BYTES, documents
from training.splits import split_corpus


def test_the_standard_library_is_always_there() -> None:
    prose = list(islice(documents("stdlib-docstrings"), 40))
    assert len({d.name for d in prose}) == len(prose) == 40 and all(d.domain == "docstrings" for d in prose)
    decoder = next(d for d in documents("stdlib-docstrings") if d.name == "json.decoder")
    assert "Implementation of JSONDecoder" in decoder.text and "def decode" not in decoder.text
    assert any("def decode" in d.text for d in documents("stdlib-code") if d.name == "json.decoder")


def test_rows_and_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        '{"text": "two", "domain": "x"}\n\n{"text": "三", "name": "n"}\n', encoding="utf-8-sig"
    )
    pq.write_table(pa.table({"text": ["four", ""]}), tmp_path / "c.parquet")
    found = list(documents(files=[tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")]))
    assert [d.text for d in found] == ["one", "two", "三", "four"]
    assert [d.name for d in found] == ["a.txt", "b.jsonl:1", "n", "c.parquet:1"]
    assert [d.domain for d in found] == ["a", "x", "b", "c"]


def test_a_suffix_in_capitals_is_the_same_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name in ("a.JSONL", "b.ndjson"):
        (tmp_path / name).write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8-sig")
        assert [found.text for found in documents(files=[tmp_path / name])] == ["one", "two"]
    (tmp_path / "c.txt").write_text("hello", encoding="utf-8-sig")
    assert [found.text for found in documents(files=[tmp_path / "c.txt"])] == ["hello"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("x.txt", "de/x.jsonl", "de/a/x.jsonl", "fr/a/x.jsonl")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "one"}', encoding="utf-8")
    assert [d.name for d in documents(files=paths)] == ["x.txt", "de/x.jsonl:1", "de/a/x.jsonl:1", "fr/a/x.jsonl:1"]
    # A run that was begun with relative paths is read with absolute ones.
    monkeypatch.chdir(tmp_path / "de")
    for some in (["x.jsonl", "a/x.jsonl"], [tmp_path / "de/x.jsonl", tmp_path / "de/a/../a/x.jsonl"]):
        assert [d.name for d in documents(files=list(map(Path, some)))] == ["de/x.jsonl:1", "a/x.jsonl:1"]


def test_each_of_two_files_of_one_name_has_its_share_of_every_split(tmp_path: Path) -> None:
    paths = [tmp_path / name / "train.txt" for name in ("en", "de")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("\n".join(f"{path.parent.name} {n}" for n in range(10)), encoding="utf-8")
    corpus = {"files": list(map(str, paths)), "paragraphs": True, "split": "order", "held_out": 0.2}
    splits = split_corpus(parse({"target": "a", "output": "b", "corpus": corpus}))
    assert [one.domain for one in splits.held_out] == ["en/train"] * 2 + ["de/train"] * 2
    assert [one.domain for one in splits.validation] == ["en/train", "de/train"]


@pytest.mark.parametrize("text", ["line of text\n" * 40_000, "東" * 100_000, "x" * (PART_BYTES + 1)])
def test_a_long_document_is_cut_and_nothing_is_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    parts = list(documents(files=[path]))
    assert "".join(d.text for d in parts) == text and len({d.name for d in parts}) == len(parts) > 1
    assert max(len(d.text.encode()) for d in parts) <= PART_BYTES


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "a"}\nnot json', "line 2: not JSON"),
        ("a.jsonl", json.dumps({"body": "a"}).encode(), "row 1: no column 'text'"),
        ("half.jsonl", b'{"text": "a"}\n{"text": "b\\ud800"}', "row 2: .*lone surrogate"),
        ("deep.jsonl", b"[" * 200_000, "line 1: not JSON"),
        ("a.parquet", b"PNG", "cannot read"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("A.CSV", b"text,name\nhello,a", "read from .jsonl or .parquet"),
        ("a.csv", b"text,name\nhello,a", "read from .jsonl or .parquet"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=says) as error:
        list(documents(files=[tmp_path / name]))
    assert name in str(error.value)


def test_no_texts_and_unknown_corpora_are_said() -> None:
    with pytest.raises(TextError, match="stdlib-docstrings"):
        list(documents())
    with pytest.raises(TextError, match="unknown corpus 'wiki'"):
        list(documents("wiki"))


def test_a_pipe_is_no_corpus(tmp_path: Path) -> None:
    """It would be empty when it is read again, and shards would be removed as out of date."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(TextError, match="which a corpus cannot be"):
            list(documents(files=[path]))
