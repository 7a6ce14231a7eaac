"""Single cases of an extreme size or shape, each with the limits of all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fusion_core import SAMPLES, align, load_mapping, load_tokenizer, map_vocabulary, save_mapping
from fusion_core.distributions import load_distributions
from fusion_core.errors import AlignmentError, DistributionError, FusionError, MappingError, TokenizerError
from fusion_core.transfer import build_index, transfer
from tests.support import formats, tiny
from tests.support.predictions import random_predictions
from tests.tokenizers.test_spans import check_order
from tests.torture.bad_texts import _tokenizers, check_alignment
from tests.torture.mutation import Case, Random
from training import config
from training.corpus import documents

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4000


def _bpe(pieces: list[str], **more: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {piece: n for n, piece in enumerate(pieces)}, "merges": [], **more}
    return {"version": "1.0", "model": model, "added_tokens": [], "pre_tokenizer": None, "normalizer": None}


def _refused(error: type[FusionError], call: Callable[[], Any], says: str = "") -> None:
    try:
        call()
    except error as found:
        assert says in str(found), found
        return
    raise AssertionError("this was taken")


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def cases(folder: Path) -> dict[str, Callable[[], Any]]:
    """By name; what a case gives back does not matter, what it raises does."""
    kinds = dict(zip(tiny.KINDS, _tokenizers(folder), strict=True))
    words = {
        "latin": "a" * (1 << 20),
        "han": "東" * 350_000,
        "spaces": " " * (1 << 20),
        "zalgo": "e" + "\u0301" * 500_000,
    }
    found: dict[str, Callable[[], Any]] = {}
    for text_name, text in words.items():
        for kind, tokenizer in kinds.items():
            found[f"{text_name} of 1 MB, {kind}"] = lambda t=tokenizer, x=text: check_order(t.encode(x))
    long = "the quick brown fox, 中文 and 🙂\n" * 140_000  # 5 MB
    real = [name for name in ("qwen", "deepseek", "mistral") if SAMPLES[name].installed]
    for name in real[1:]:
        for method in ("span", "exact"):
            found[f"5 MB aligned by {method}, {real[0]} and {name}"] = lambda b=name, m=method: check_alignment(
                align(load_tokenizer(real[0]), load_tokenizer(b), text=long, method=m)
            )
    pairs = [("byte-bpe", "metaspace-bpe"), ("wordpiece", "sentencepiece-unigram"), ("byte-bpe", "byte-bpe")]
    for a, b in pairs:
        found[f"300 KB aligned by dtw, {a} and {b}"] = lambda a=a, b=b: _answered(
            lambda: align(kinds[a], kinds[b], text=long[:300_000], method="dtw"), AlignmentError
        )
        found[f"300 KB of one word aligned by dtw, {a} and {b}"] = lambda a=a, b=b: _answered(
            lambda: align(kinds[a], kinds[b], text=words["latin"][:300_000], method="dtw"), AlignmentError
        )
    deep = {
        "tokenizer.json": b'{"model": ' * 1_000_000,
        "nested.json": b"[" * 10_000_000,
        "tekken.json": b'{"config": {"a": ' * 600_000,
    }
    for name, data in deep.items():
        found[f"10 MB of nesting in {name}"] = lambda n=name, d=data: _refused(
            TokenizerError, lambda: load_tokenizer(_file(folder, n, d)), n
        )
    found["10 MB of nesting in a config"] = lambda: _refused(
        config.ConfigError, lambda: config.load(_file(folder, "deep.yaml", b"[" * 10_000_000)), "deep.yaml"
    )
    found["10 MB of nesting in a .jsonl"] = lambda: _refused(
        FusionError, lambda: list(documents(None, [_file(folder, "deep.jsonl", b"[" * 10_000_000)])), "deep.jsonl"
    )
    cyclic = _bpe(["a", "b", "ab", "aba"], merges=[["a", "b"], ["ab", "a"], ["aba", "b"]])
    found["merges that make what is not there"] = lambda: _refused(
        TokenizerError,
        lambda: load_tokenizer(_file(folder, "tokenizer.json", json.dumps(cyclic).encode())),
        "tokenizer.json",
    )
    itself = _bpe(["a", "b"], merges=[["a", ""], ["", "a"], ["a", "a"]])
    found["merges in a cycle"] = lambda: _answered(
        lambda: load_tokenizer(_file(folder, "tokenizer.json", json.dumps(itself).encode())).encode("abab"),
        TokenizerError,
    )
    for name in ("tokenizer.model", "model.gguf", "tokenizer.json", "qwen.tiktoken", "tekken.json"):
        found[f"a picture called {name}"] = lambda n=name: _refused(
            TokenizerError, lambda: load_tokenizer(_file(folder, n, PNG)), n
        )
    found["a picture as a mapping"] = lambda: _refused(
        MappingError, lambda: load_mapping(_file(folder, "m.parquet", PNG)), "m.parquet"
    )
    found["a picture as distributions"] = lambda: _refused(
        DistributionError, lambda: load_distributions(_file(folder, "d.parquet", PNG)), "d.parquet"
    )
    found["a file of 300 MB as a tokenizer"] = lambda: _refused(
        TokenizerError, lambda: load_tokenizer(_sparse(folder, 300 << 20)), "huge.json"
    )
    found["an id of four million"] = lambda: _answered(
        lambda: load_tokenizer(
            _file(folder, "tokenizer.json", json.dumps(_bpe(["a"], vocab={"a": 0, "b": (1 << 22) - 1})).encode())
        ).encode("ab"),
        TokenizerError,
    )
    found["mappings of other tokenizers"] = lambda: _other_tokenizers(folder, kinds)
    five = load_tokenizer(
        _file(folder, "five.json", json.dumps(_bpe(["a", "b", "c", "ab", "<s>"], merges=[["a", "b"]])).encode())
    )
    for other in (five, kinds["byte-bpe"]):
        for source, target in ((five, other), (other, five)):
            found[f"a vocabulary of five, {source.size} to {target.size}"] = lambda s=source, t=target: _carry_all(s, t)
    return found


def _answered(call: Callable[[], Any], error: type[FusionError]) -> None:
    with suppress(error):
        call()


def _sparse(folder: Path, size: int) -> Path:
    path = folder / "huge.json"
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _other_tokenizers(folder: Path, kinds: dict[str, Any]) -> None:
    a, b, c = kinds["byte-bpe"], kinds["wordpiece"], kinds["metaspace-bpe"]
    path = folder / "other.parquet"
    save_mapping(map_vocabulary(a, b, kind="hard"), path)
    load_mapping(path, a, b)
    _refused(MappingError, lambda: load_mapping(path, a, c))
    _refused(MappingError, lambda: load_mapping(path, c, b))
    formats.write(folder / "formats")
    _refused(MappingError, lambda: load_mapping(folder / "formats" / "distributions.parquet"))
    _refused(DistributionError, lambda: load_distributions(folder / "formats" / "mapping.parquet"))


def _carry_all(source: Any, target: Any) -> None:
    index = build_index(source, target)
    theirs, own = (random_predictions(side, "abcab", 1, top_k=64) for side in (source, target))
    for method in ("byte-exact", "byte-exact-open", "boundary-hard", "boundary-soft", "ot", "fusellm-soft"):
        carried = transfer(theirs, own.encoding, index, method=method, own=own)
        assert np.allclose(carried.ledger.sum(axis=1), 1.0, atol=1e-5)


def extremes(folder: Path) -> Case:
    made = cases(folder)
    names = list(made)

    def case(rng: Random) -> None:
        name = names[rng.number]
        try:
            made[name]()
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error

    return case


def count() -> int:
    """How many there are; they need no folder to be counted."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return len(cases(Path(folder)))
