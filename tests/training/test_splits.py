"""Two models that learn from two shares of one corpus never see the same document."""

from __future__ import annotations

from pathlib import Path

from training.config import parse
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
