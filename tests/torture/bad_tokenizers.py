"""Spoiled tokenizer files, folders and names."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from fusion_core import Tokenizer, load_tokenizer
from tests.support import tiny
from tests.support.gguf_file import write_gguf
from tests.tokenizers.test_spans import check_order
from tests.torture import mutation
from tests.torture.mutation import Case, Random
from tests.torture.naming import naming

_JSON_KINDS = [kind for kind in tiny.KINDS if not kind.startswith("sentencepiece")]
_SPIECE_KINDS = [kind for kind in tiny.KINDS if kind.startswith("sentencepiece")]


def _trained(folder: Path, kind: str) -> bytes:
    home = folder / "trained" / kind
    home.mkdir(parents=True, exist_ok=True)
    return tiny.train(kind, home).read_bytes()


def use(tokenizer: Tokenizer, rng: Random) -> None:
    """What loads must also work, or say that it does not."""
    vocabulary = tokenizer.vocabulary
    assert tokenizer.size == len(vocabulary.pieces) == len(vocabulary.kinds) == len(vocabulary.canonical) > 0
    assert all(0 <= i < tokenizer.size for i in tokenizer.roles.values())
    encoding = tokenizer.encode(mutation.text(rng))
    check_order(encoding)
    assert all(0 <= i < tokenizer.size for i in encoding.ids.tolist())


def _tried(path: Path, rng: Random) -> None:
    with naming(path):
        tokenizer = load_tokenizer(path)
    use(tokenizer, rng)


def tokenizer_json_values(folder: Path) -> Case:
    trees = [json.loads(_trained(folder, kind)) for kind in _JSON_KINDS]
    path = folder / "tokenizer.json"
    sections = ("normalizer", "pre_tokenizer", "decoder", "post_processor", "added_tokens", "truncation", "padding")

    def case(rng: Random) -> None:
        tree = rng.choice(trees)
        if rng.random() < 0.3:  # sound parts that do not belong together
            tree = {**tree, **{name: rng.choice(trees).get(name) for name in rng.sample(sections, rng.randint(1, 3))}}
            path.write_bytes(json.dumps(tree).encode())
        else:
            path.write_bytes(mutation.as_json(rng, mutation.spoil_json(rng, tree, shallow=0.8)))
        _tried(path, rng)

    return case


def tokenizer_json_bytes(folder: Path) -> Case:
    data = [_trained(folder, kind) for kind in _JSON_KINDS]
    path = folder / "tokenizer.json"

    def case(rng: Random) -> None:
        path.write_bytes(mutation.spoil(rng, rng.choice(data)))
        _tried(path, rng)

    return case


def sentencepiece_models(folder: Path) -> Case:
    data = [_trained(folder, kind) for kind in _SPIECE_KINDS]
    path = folder / "tokenizer.model"

    def case(rng: Random) -> None:
        path.write_bytes(mutation.spoil(rng, rng.choice(data)))
        _tried(path, rng)

    return case


def _ranks() -> list[tuple[bytes, int]]:
    return [(token, n) for n, token in enumerate([bytes([b]) for b in range(256)] + [b"th", b"the", b" the", b"qu"])]


def tiktoken_bytes() -> bytes:
    """A small .tiktoken file."""
    return b"".join(base64.b64encode(token) + f" {i}\n".encode() for token, i in _ranks())


def tiktoken_files(folder: Path) -> Case:
    data = tiktoken_bytes()
    path = folder / "tiny.tiktoken"

    def case(rng: Random) -> None:
        lines = data.splitlines(keepends=True)
        if rng.random() < 0.5:
            at = rng.randrange(len(lines))
            lines[at] = rng.choice(
                (b"", b"dGg= 99999999999\n", b"dGg= -1\n", b"dGg= 16777217\n", lines[at - 1], b"=\n")
            )
            path.write_bytes(b"".join(lines))
        else:
            path.write_bytes(mutation.spoil(rng, data))
        _tried(path, rng)

    return case


def tekken_tree() -> dict[str, Any]:
    """What a small tekken.json holds."""
    rows = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, i in _ranks()]
    config = {
        "pattern": r"[^\s]+|\s+", "num_vocab_tokens": 260, "default_vocab_size": 270, "default_num_special_tokens": 10,
    }  # fmt: skip
    return {"config": config, "vocab": rows, "special_tokens": [{"rank": 0, "token_str": "<unk>"}]}


def tekken_files(folder: Path) -> Case:
    tree = tekken_tree()
    path = folder / "tekken.json"

    def case(rng: Random) -> None:
        if rng.random() < 0.7:
            path.write_bytes(mutation.as_json(rng, mutation.spoil_json(rng, tree, shallow=0.6)))
        else:
            path.write_bytes(mutation.spoil(rng, json.dumps(tree).encode()))
        _tried(path, rng)

    return case


def gguf_files(folder: Path) -> Case:
    data = [write_gguf(folder / f"{model}.gguf", model).read_bytes() for model in ("gpt2", "llama")]
    for one in ("gpt2", "llama"):
        load_tokenizer(folder / f"{one}.gguf").encode("the fox")  # as it is, it works
    path = folder / "model.gguf"

    def case(rng: Random) -> None:
        path.write_bytes(mutation.spoil(rng, rng.choice(data)))
        _tried(path, rng)

    return case


def folders(folder: Path) -> Case:
    """Folders of several files, those beside the tokenizer spoiled: configurations, older layouts, wrong names."""
    tree = json.loads(_trained(folder, "byte-bpe"))
    config = {
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "tokenizer_class": "GPT2Tokenizer",
    }
    word = json.loads(_trained(folder, "wordpiece"))["model"]["vocab"]
    home = folder / "model-folder"

    def case(rng: Random) -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        kind = rng.randrange(4)
        if kind == 0:
            (home / "tokenizer.json").write_text(json.dumps(tree))
            (home / "tokenizer_config.json").write_bytes(mutation.as_json(rng, mutation.spoil_json(rng, config)))
        elif kind == 1:
            (home / "vocab.txt").write_bytes(mutation.spoil(rng, "\n".join(word).encode()))
            (home / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        elif kind == 2:
            (home / "vocab.json").write_bytes(mutation.as_json(rng, mutation.spoil_json(rng, tree["model"]["vocab"])))
            merges = "\n".join(" ".join(pair) for pair in tree["model"]["merges"])
            (home / "merges.txt").write_bytes(
                mutation.spoil(rng, merges.encode()) if rng.random() < 0.5 else merges.encode()
            )
            (home / "tokenizer_config.json").write_bytes(mutation.as_json(rng, mutation.spoil_json(rng, config)))
        else:
            (home / rng.choice(("tokenizer.json", "spiece.model", "a.tiktoken", "x.gguf"))).mkdir()
        with naming(home):
            tokenizer = load_tokenizer(home)
        use(tokenizer, rng)

    return case


def names(folder: Path) -> Case:
    alphabet = (
        "/",
        "..",
        "~",
        "\0",
        " ",
        "a",
        "tiktoken:",
        "qwen",
        ".json",
        "\ud800",
        "%",
        "nobody/nothing",
        "\n",
        "é",
        "-" * 300,
    )

    def case(rng: Random) -> None:
        name = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 5)))
        tokenizer = load_tokenizer(name)
        assert name.strip() in ("qwen",), name
        use(tokenizer, rng)

    return case
