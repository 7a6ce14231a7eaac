"""What each kind of mapping does, on vocabularies small enough to check by hand and on real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion_core import MappingError, Tokenizer, load_mapping, load_tokenizer, map_vocabulary
from fusion_core import save_mapping as save
from fusion_core.mapping import (
    BREAKDOWNS,
    HAS_PIECE_FORM,
    KINDS,
    NEEDS_TEXTS,
    OUTCOMES,
    breakdown,
    disagreements,
    nearest_targets,
    occurrences,
)  # fmt: skip
from tests.support import tiny
from tests.support.requires import sample

TEXTS = ["the cat sat on the mat", "the bat and the hat", "a cat, a hat"]


def _words(folder: Path, name: str, pieces: list[str], special: tuple[str, ...] = (), **roles: str) -> Tokenizer:
    """A tokenizer of these pieces, whose BPE merges nothing."""
    added = [{"id": pieces.index(s), "content": s, "special": True, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False} for s in special]  # fmt: skip
    model = {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": [], "byte_fallback": True}
    source = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": None, "model": model}
    path = folder / name / "tokenizer.json"
    path.parent.mkdir()
    path.write_text(json.dumps(source))
    (path.parent / "tokenizer_config.json").write_text(json.dumps({f"{role}_token": p for role, p in roles.items()}))
    return load_tokenizer(path)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Tokenizer, Tokenizer]:
    source = _words(tmp_path, "source", ["cat", "rat", "elephant", "<eos>", "東京"], ("<eos>",))
    target = _words(tmp_path, "target", ["bat", "cat", "<eos>", "hat", "mat"], ("<eos>",))
    return source, target


def test_hard_keeps_identical_entries_and_loses_the_rest(small: tuple[Tokenizer, Tokenizer]) -> None:
    mapping = map_vocabulary(*small, kind="hard")
    assert mapping.best.tolist() == [1, -1, -1, 2, -1]
    assert mapping.lost_mass([0, 1, 2, 3, 4]).tolist() == [0, 1, 1, 0, 1]
    assert [OUTCOMES[k] for k in mapping.outcome] == ["exact", "not mapped", "not mapped", "exact", "not mapped"]


def test_soft_takes_the_nearest_and_ties_go_to_the_lowest_id(small: tuple[Tokenizer, Tokenizer]) -> None:
    mapping = map_vocabulary(*small, kind="soft")
    # "rat" is one letter from bat, cat, hat and mat; "東京" three from each, which is as bad as it can be.
    assert mapping.best.tolist() == [1, 0, 3, 2, 0]
    assert mapping.distance.tolist() == [0, 1, 5, 0, 3]
    assert mapping.ties.tolist()[1] == 4 and mapping.collisions.tolist() == [2, 1, 1, 1, 0]
    assert mapping.targets(1)[0].tolist() == [0] and mapping.targets(1)[1].tolist() == [1]


def test_a_special_token_never_takes_part_in_byte_distances(small: tuple[Tokenizer, Tokenizer]) -> None:
    source, target = small
    soft = map_vocabulary(source, target, kind="soft")
    eos = target.vocabulary.by_piece["<eos>"]
    assert np.flatnonzero(soft.best == eos).tolist() == [source.vocabulary.by_piece["<eos>"]]


def test_a_token_that_is_bos_and_eos_becomes_the_end(tmp_path: Path) -> None:
    source = _words(tmp_path, "source", ["cat", "<end>"], ("<end>",), bos="<end>", eos="<end>")
    target = _words(tmp_path, "target", ["cat", "<s>", "</s>"], ("<s>", "</s>"), bos="<s>", eos="</s>")
    for kind in ("hard", "soft", "first-token"):
        assert map_vocabulary(source, target, kind=kind).best[1] == 2


def test_cooccurrence_decides_ties_by_neighbours_that_both_know(tmp_path: Path) -> None:
    source = _words(tmp_path, "s", ["x", "r", "y"])
    target = _words(tmp_path, "t", ["p", "q", "x", "y"])
    # "r" is as far from "p" as from "q" in letters; on the corpus neither stands beside "x" but through alignment.
    found = map_vocabulary(source, target, kind="cooccurrence", texts=["xrx", "xqx", "ypy"])
    soft = map_vocabulary(source, target, kind="soft")
    r = source.vocabulary.by_piece["r"]
    assert soft.best[r] == target.vocabulary.by_piece["p"]
    assert found.best[r] == target.vocabulary.by_piece["q"]
    assert found.distance[r] == soft.distance[r] == 1


def test_statistical_weights_are_shares_of_links(tinies: Callable[[str], Tokenizer]) -> None:
    source, target = tinies("byte-bpe"), tinies("metaspace-bpe")
    from fusion_core import align

    mapping = map_vocabulary(source, target, kind="statistical", texts=TEXTS, cache=False)
    counts: dict[tuple[int, int], int] = {}
    for text in TEXTS:
        found = align(source, target, text=text)
        for i, j in found.edges.tolist():
            key = (int(found.source.ids[i]), int(found.target.ids[j]))
            counts[key] = counts.get(key, 0) + 1
    for s in {s for s, _ in counts}:
        row = {t: n for (here, t), n in counts.items() if here == s}
        ids, weights = mapping.targets(s)
        expected = sorted(row, key=lambda t: (-row[t], t))
        assert ids.tolist() == expected
        assert weights.tolist() == pytest.approx([row[t] / sum(row.values()) for t in expected])
    assert mapping.row_mass.max() <= 1 + 1e-6


def test_first_token_is_the_first_of_the_targets_own_encoding() -> None:
    qwen, mistral = sample("qwen"), sample("deepseek")
    mapping = map_vocabulary(qwen, mistral, kind="first-token")
    for piece in ("Ġhello", "elephant", "12", "Ġinternationalization", "ĠпÑĢÐ¸"):
        i = qwen.vocabulary.by_piece.get(piece)
        if i is None:
            continue
        text = qwen.canonical_bytes(i).decode()
        assert mapping.best[i] == mistral.encode(text).ids[0], piece
    half = next(i for i in range(qwen.size) if qwen.canonical_bytes(i) == b"\xe4\xb8")
    assert b"\xe4\xb8".startswith(mistral.canonical_bytes(int(mapping.best[half])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", [("byte-bpe", "wordpiece"), ("unigram-nfkc", "byte-bpe"), ("metaspace-bpe",) * 2])
def test_every_kind_is_a_sparse_matrix_of_shares(
    tinies: Callable[[str], Tokenizer], pair: tuple[str, str], kind: str
) -> None:
    source, target = map(tinies, pair)
    for form in ("bytes", "pieces") if kind in HAS_PIECE_FORM else ("bytes",):
        texts = TEXTS if kind in NEEDS_TEXTS else None
        mapping = map_vocabulary(source, target, kind=kind, form=form, texts=texts)
        assert mapping.source_size == source.size and mapping.target_size == target.size
        assert mapping.indptr[-1] == len(mapping.target_ids) == len(mapping.weights)
        assert np.all((mapping.target_ids >= 0) & (mapping.target_ids < target.size))
        assert mapping.row_mass.max() <= 1 + 1e-6 and len(mapping.to_frame(source, target)) == source.vocabulary.count
        if source is target and kind in ("hard", "soft", "cooccurrence"):
            assert mapping.distance[source.vocabulary.spells].max() == 0


def test_ties_go_to_the_lowest_target_id(tmp_path: Path) -> None:
    source = _words(tmp_path, "s", ["A", "B"])
    target = _words(tmp_path, "t", ["AX", "BX", "AY", "BY"])
    assert map_vocabulary(source, target, kind="soft").best.tolist() == [0, 1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NEEDS_TEXTS])
def test_of_a_byte_piece_and_a_letter_the_letter_is_taken_which_the_tokenizer_makes(tmp_path: Path, kind: str) -> None:
    source = _words(tmp_path, "s", ["A", "B", "C"])
    target = _words(tmp_path, "t", ["<0x41>", "A", "<0x42>", "B", "<0x43>"])
    best = map_vocabulary(source, target, kind=kind).best.tolist()
    assert best == [1, 3, 4]


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_what_boundary_rules_say_of_punctuation_is_what_the_text_has(kind: str) -> None:
    source, target = sample("minilm"), sample("mistral")
    mapping = map_vocabulary(source, target, kind=kind)
    for letter in ".,'-:9":
        (i,) = source.encode(letter).ids.tolist()
        assert target.vocabulary.pieces[mapping.best[i]] == letter


class TestStorage:
    def test_a_saved_mapping_comes_back_whole(self, small: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
        mapping = map_vocabulary(*small, kind="soft")
        save(mapping, tmp_path / "m.parquet")
        again = load_mapping(tmp_path / "m.parquet", *small)
        assert again.provenance == mapping.provenance and again.target_size == mapping.target_size
        for name in ("indptr", "target_ids", "weights", "distance", "ties"):
            assert np.array_equal(getattr(again, name), getattr(mapping, name))
            assert getattr(again, name).dtype == getattr(mapping, name).dtype

    def test_another_tokenizer_is_refused(self, small: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
        save(map_vocabulary(*small, kind="hard"), tmp_path / "m.parquet")
        with pytest.raises(MappingError, match="was made for the source tokenizer"):
            load_mapping(tmp_path / "m.parquet", small[1], small[0])

    @pytest.mark.parametrize("damage", ["cut", "empty", "text", "out of range", "nan"])
    def test_damage_is_refused(self, small: tuple[Tokenizer, Tokenizer], tmp_path: Path, damage: str) -> None:
        mapping, path = map_vocabulary(*small, kind="soft"), tmp_path / "m.parquet"
        save(mapping, path)
        data = path.read_bytes()
        if damage == "out of range":
            save(replace(mapping, target_ids=mapping.target_ids + 100), path)
        elif damage == "nan":
            save(replace(mapping, weights=mapping.weights * np.float32(np.nan)), path)
        else:
            path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"{}"}[damage])
        with pytest.raises(MappingError, match=r"m\.parquet"):
            load_mapping(path)

    def test_the_cache_is_used_and_mended(
        self, small: tuple[Tokenizer, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fusion_core.mapping import _kinds

        monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "ws"))
        first = map_vocabulary(*small, kind="soft")
        (cached,) = (tmp_path / "ws" / "cache" / "mapping").iterdir()
        cached.write_bytes(b"broken")
        assert map_vocabulary(*small, kind="soft").best.tolist() == first.best.tolist()
        monkeypatch.setattr(_kinds, "soft", lambda *args: pytest.fail("computed again"))
        assert map_vocabulary(*small, kind="soft").best.tolist() == first.best.tolist()

    def test_an_unwritable_place_is_an_error_of_ours(self, small: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(MappingError, match="cannot write"):
            save(map_vocabulary(*small, kind="hard"), tmp_path / "file" / "m.parquet")


class TestProgress:
    def test_it_reaches_the_total(self) -> None:
        seen: list[tuple[int, int]] = []
        map_vocabulary(
            sample("mistral"), sample("minilm"), kind="soft", cache=False, progress=lambda d, t: seen.append((d, t))
        )
        assert len(seen) > 3 and seen[-1][0] == seen[-1][1] and seen == sorted(seen)

    def test_an_interrupt_stops_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "ws"))

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            map_vocabulary(sample("mistral"), sample("minilm"), kind="soft", progress=stop)
        assert not list((tmp_path / "ws").rglob("*.parquet"))


class TestFigures:
    def test_a_breakdown_counts_every_entry_once(self, small: tuple[Tokenizer, Tokenizer]) -> None:
        mapping = map_vocabulary(*small, kind="soft")
        for by in BREAKDOWNS:
            table = breakdown(mapping, small[0], by)
            assert table["total"].sum() == 5 and table[list(OUTCOMES)].sum().sum() == 5
        by_script = breakdown(mapping, small[0], "script")
        assert by_script.loc["Han", "distance 3+"] == 1 and by_script.loc["Latin", "total"] == 3

    def test_occurrences_weigh_the_entries(self, small: tuple[Tokenizer, Tokenizer]) -> None:
        counts = np.array([3, 2, 0, 0, 0])
        table = breakdown(map_vocabulary(*small, kind="hard"), small[0], "all", counts)
        assert table.loc["all entries", ["exact", "not mapped", "total"]].tolist() == [3, 2, 5]

    def test_occurrences_count_ids(self) -> None:
        counts = occurrences(sample("qwen"), "the the the")
        assert counts.sum() == 3 and counts[sample("qwen").vocabulary.by_piece["Ġthe"]] == 2

    def test_disagreements_come_worst_first(self, small: tuple[Tokenizer, Tokenizer]) -> None:
        hard, soft = (map_vocabulary(*small, kind=kind) for kind in ("hard", "soft"))
        frame = disagreements(hard, soft, *small)
        assert frame["piece"].tolist() == ["東京", "elephant", "rat"]
        assert frame["damage"].tolist() == pytest.approx([1.5, 5 / 8, 1 / 3])
        weighted = disagreements(hard, soft, *small, counts=np.array([0, 9, 0, 0, 0]))
        assert weighted["piece"].tolist() == ["rat"] and weighted["occurrences"].tolist() == [9]

    def test_damage_in_pieces_is_per_character_of_the_piece(self, tmp_path: Path) -> None:
        """A special token spells nothing: per character of its text, any distance would be the worst."""
        source, target = (load_tokenizer(tiny.train(kind, tmp_path)) for kind in ("byte-bpe", "wordpiece"))
        hard, soft = (map_vocabulary(source, target, kind=kind, form="pieces") for kind in ("hard", "soft"))
        frame = disagreements(hard, soft, source, target).set_index("id")
        pieces = source.vocabulary.pieces
        assert "<s>" in [pieces[i] for i in frame.index]
        for i, row in frame.iterrows():
            assert row["damage"] == pytest.approx(row["distance"] / len(pieces[i]))

    def test_nearest_targets_of_one_entry(self, small: tuple[Tokenizer, Tokenizer]) -> None:
        frame = nearest_targets(*small, 1, limit=3)
        assert frame["piece"].tolist() == ["bat", "cat", "hat"] and frame["distance"].tolist() == [1, 1, 1]

    @pytest.mark.parametrize("form", ["bytes", "pieces"])
    def test_the_nearest_is_the_one_that_soft_maps_to(self, form: str, tmp_path: Path) -> None:
        source, target = (load_tokenizer(tiny.train(kind, tmp_path)) for kind in ("metaspace-bpe", "byte-bpe"))
        mapping = map_vocabulary(source, target, kind="soft", form=form)
        compared = 0
        for entry in range(source.size):
            frame = nearest_targets(source, target, entry, form=form)
            if len(frame):
                compared += 1
                found = mapping.best[entry], mapping.distance[entry]
                assert source.is_special(entry) or found == (frame["id"][0], frame["distance"][0])
                assert frame["distance"].is_monotonic_increasing and len(frame) == 10
        assert compared > 100 and (form == "pieces") == (compared == source.size)


def test_wrong_arguments_say_what_is_possible(small: tuple[Tokenizer, Tokenizer]) -> None:
    for arguments, says in (
        ({"kind": "firm"}, "hard, soft, cooccurrence"),
        ({"form": "letters"}, "bytes, pieces"),
        ({"kind": "first-token", "form": "pieces"}, "no form in pieces"),
        ({"kind": "statistical"}, "learned from texts; give some"),
        ({"kind": "statistical", "texts": [""]}, "those given are empty"),
    ):
        with pytest.raises(MappingError, match=says):
            map_vocabulary(*small, **arguments)  # type: ignore[arg-type]
    mapping = map_vocabulary(*small, kind="hard")
    for wrong in ([-1], [5], [0, 10**9]):
        with pytest.raises(MappingError, match="go from 0 to 4"):
            mapping.lost_mass(wrong)
