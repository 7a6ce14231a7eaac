"""Shares and splits of a corpus: every document in one of them, and in the same one each time."""

from __future__ import annotations

from training.config import parse
from training.splits import SPLITS, split_corpus


def _names(part: str | None) -> dict[str, set[str]]:
    config = parse(
        {"target": "a", "corpus": {"name": "stdlib-docstrings", "part": part, "limit": 0}, "output": "runs/x"}
    )
    splits = split_corpus(config)
    return {split: {document.name for document in getattr(splits, split)} for split in SPLITS}


def test_shares_are_apart_and_together_whole_and_a_documents_split_does_not_depend_on_the_share() -> None:
    whole, shares = _names(None), [_names(f"{number}/3") for number in (1, 2, 3)]
    for split in SPLITS:
        assert all(share[split] for share in shares)
        assert sum(len(share[split]) for share in shares) == len(whole[split])
        assert set().union(*(share[split] for share in shares)) == whole[split]
