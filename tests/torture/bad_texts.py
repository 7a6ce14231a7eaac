"""Hard texts through sound tokenizers: encoding, alignment, transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fusion_core import Tokenizer, align, load_tokenizer
from fusion_core.alignment import METHODS as ALIGNMENTS
from fusion_core.text import grapheme_boundaries, script_of, show_bytes
from fusion_core.transfer import METHODS, build_index, transfer
from tests.support import tiny
from tests.support.predictions import random_predictions
from tests.tokenizers.test_spans import check_exact, check_order
from tests.torture import mutation
from tests.torture.mutation import Case, Random


def _tokenizers(folder: Path) -> list[Tokenizer]:
    found = []
    for kind in tiny.KINDS:
        home = folder / "trained" / kind
        home.mkdir(parents=True, exist_ok=True)
        found.append(load_tokenizer(tiny.train(kind, home)))
    return found


def encoding(folder: Path) -> Case:
    tokenizers = _tokenizers(folder)

    def case(rng: Random) -> None:
        text, tokenizer = mutation.text(rng), rng.choice(tokenizers)
        found = tokenizer.encode(text, parse_special=rng.random() < 0.2)
        check_order(found)
        if not tokenizer.vocabulary.special[found.ids].any():
            check_exact(found)
            if "/byte-bpe/" in tokenizer.name:
                assert b"".join(found.canonical) == text.encode()
        assert len(found.to_frame()) == len(found) == len(found.splits_character)
        assert grapheme_boundaries(text)[-1] == len(found.data) if text else True
        show_bytes(found.data, invisible=True).encode()
        script_of(text)

    return case


def check_alignment(found: Any) -> None:
    n, m = len(found.source), len(found.target)
    edges = found.edges
    assert edges.shape == (len(edges), 2)
    assert ((edges >= 0) & (edges < (n, m))).all() if len(edges) else True
    groups = found.groups
    assert groups[:, 1].tolist() == [*groups[1:, 0].tolist(), n][: len(groups)] and groups[:1, 0].tolist() in ([], [0])
    assert groups[:, 3].tolist() == [*groups[1:, 2].tolist(), m][: len(groups)]
    if len(groups):
        assert groups[-1, 1] == n and groups[-1, 3] == m
    else:
        assert n == m == 0
    assert all(0 <= value <= 1 or "per_byte" in name for name, value in vars(found.quality).items())
    assert np.isfinite(found.cost)


def alignment(folder: Path) -> Case:
    tokenizers = _tokenizers(folder)

    def case(rng: Random) -> None:
        text = mutation.text(rng)[:1500]  # dtw is quadratic
        found = align(
            rng.choice(tokenizers), rng.choice(tokenizers), text=text, method=rng.choice(list(ALIGNMENTS)),
            cost=rng.choice(("edit", "containment")), compare=rng.choice(("bytes", "pieces")),
        )  # fmt: skip
        check_alignment(found)
        if rng.random() < 0.1:
            assert len(found.to_frame()) == len(found.edges) and len(found.group_frame()) == len(found.groups)
            found.to_json().encode()

    return case


def transfers(folder: Path) -> Case:
    tokenizers = _tokenizers(folder)
    indices: dict[tuple[int, int], Any] = {}
    methods = list(METHODS)

    def case(rng: Random) -> None:
        a, b = rng.randrange(len(tokenizers)), rng.randrange(len(tokenizers))
        source, target = tokenizers[a], tokenizers[b]
        if (a, b) not in indices:
            indices[a, b] = build_index(source, target)
        index = indices[a, b]
        text, top_k = mutation.text(rng)[:200], rng.choice((0, 1, 3, 16, 10_000))
        sharp = rng.choice((0.0, 1.0, 3.0, 60.0))
        theirs = random_predictions(
            source, text, rng.randrange(1 << 30), top_k=top_k, has_start=rng.random() < 0.5, sharp=sharp
        )
        own = random_predictions(target, text, rng.randrange(1 << 30), top_k=top_k)
        found = transfer(
            theirs, own.encoding, index, method=rng.choice(methods), own=own if rng.random() < 0.7 else None
        )
        assert len(found) == max(0, len(own.encoding) - 1)
        assert np.allclose(found.ledger.sum(axis=1), 1.0, atol=1e-5) and (found.ledger >= -1e-9).all()
        owner = np.repeat(np.arange(len(found)), np.diff(found.indptr))
        mass = np.bincount(owner, weights=found.probs, minlength=len(found))
        assert np.allclose((mass + found.rest)[found.covered], 1.0, atol=1e-4)
        assert np.isfinite(found.probs).all() and (found.probs >= 0).all()
        assert ((found.ids >= 0) & (found.ids < target.size)).all()
        assert len(np.unique(owner * target.size + found.ids)) == len(found.ids)

    return case
