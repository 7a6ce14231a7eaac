"""Two models that learn from two shares of one corpus never see the same document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusion_core import ConfigError
from training.config import parse
from training.corpus import PART_BYTES
from training.splits import SPLITS, split_corpus


def _names(file: Path, part: str | None) -> dict[str, set[str]]:
    corpus = {"files": [str(file)], "paragraphs": True, "part": part}
    splits = split_corpus(parse({"target": "a", "corpus": corpus, "output": "runs/x"}))
    return {split: {document.name for document in getattr(splits, split)} for split in SPLITS}


def test_shares_are_apart_and_together_whole_and_a_documents_split_does_not_depend_on_the_share(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"line {n}" for n in range(600)), encoding="utf-8")
    whole, shares = _names(file, None), [_names(file, f"{number}/3") for number in (1, 2, 3)]
    assert sum(map(len, whole.values())) == 600
    for split in SPLITS:
        assert all(share[split] for share in shares)
        assert sum(len(share[split]) for share in shares) == len(whole[split])
        assert set().union(*(share[split] for share in shares)) == whole[split]


def test_the_paragraphs_of_a_long_file_are_spread_like_those_of_a_short_one(tmp_path: Path) -> None:
    """A file that is read in parts is not one document once its paragraphs are."""
    file = tmp_path / "long.txt"
    file.write_text("\n".join(f"paragraph {n} " + "x" * 300 for n in range(1500)), encoding="utf-8")
    assert file.stat().st_size > 3 * PART_BYTES
    corpus = {"files": [str(file)], "paragraphs": True, "validation": 0.1, "held_out": 0.2}
    splits = split_corpus(parse({"target": "a", "corpus": corpus, "output": "runs/x"}))
    sizes = [len(splits.train), len(splits.validation), len(splits.held_out)]
    assert sum(sizes) == 1500 and 900 < sizes[0] < 1200 and 90 < sizes[1] < 220 and 200 < sizes[2] < 400


def test_names_with_a_number_sign_are_names_and_parts_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"issue {n}", "name": f"owner/repo#{n}"} for n in range(300)]
    rows.append({"text": "y" * 60 + "\n" + ("z" * 99 + "\n") * (4 * PART_BYTES // 100), "name": "long"})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    corpus = {"files": [str(file)], "validation": 0.3, "held_out": 0.3}
    splits = split_corpus(parse({"target": "a", "corpus": corpus, "output": "runs/x"}))
    names = [[document.name for document in getattr(splits, split)] for split in SPLITS]
    assert all(len([name for name in part if name.startswith("owner")]) > 50 for part in names)
    holding = [part for part in names if any(name.startswith("long") for name in part)]
    assert len(holding) == 1 and sum(name.startswith("long") for name in holding[0]) > 3


def test_shares_are_what_they_say_whatever_floats_make_of_them(tmp_path: Path) -> None:
    file = tmp_path / "ten.txt"
    file.write_text("\n".join(f"paragraph {n}" for n in range(10)), encoding="utf-8")
    corpus = {"files": [str(file)], "paragraphs": True, "split": "order", "validation": 0.2, "held_out": 0.1}
    splits = split_corpus(parse({"target": "a", "corpus": corpus, "output": "runs/x"}))
    assert [len(getattr(splits, split)) for split in SPLITS] == [7, 2, 1]


def test_a_text_is_in_one_split_whatever_its_names(tmp_path: Path) -> None:
    """A model that was trained on a copy of a held-out text would be praised for its memory."""
    texts = [f"text {n % 60}" for n in range(400)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "name": f"n{n}"}) for n, text in enumerate(texts)), "utf-8")
    corpus = {"files": [str(file)], "validation": 0.02, "held_out": 0.04}
    splits = split_corpus(parse({"target": "a", "corpus": corpus, "output": "runs/x"}))
    found = [{document.text for document in getattr(splits, split)} for split in SPLITS]
    assert all(found) and sum(map(len, found)) == len(set().union(*found)) == 60
    assert len(splits.train) + splits.train.copies + len(splits.validation) + len(splits.held_out) <= 400
    assert splits.train.copies > 50 and len(list(splits.train)) == len(splits.train)
    same = [json.dumps({"text": "one", "name": str(n)}) for n in range(50)]
    file.write_text("\n".join(same), "utf-8")
    with pytest.raises(ConfigError, match="kept apart too"):
        split_corpus(parse({"target": "a", "corpus": {**corpus, "held_out": 0.3}, "output": "runs/x"}))
