"""The app's parts that need no browser: what it may read, how the URL carries a text, what the strip is sent."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app import figures, results, strip, texts
from app.inputs import _size
from app.paths import VARIABLE, permitted
from app.shelf import Shelf, footprint
from fusion_core import TokenizerError, align, map_vocabulary
from fusion_core.mapping import breakdown
from fusion_core.workspace import workspace
from tests.support import tiny
from tests.support.requires import sample


class TestPaths:
    def test_names_that_are_no_paths_pass(self) -> None:
        for name in ("qwen", "tiktoken:o200k_base", "Qwen/Qwen3-0.6B"):
            assert permitted(f" {name} ") == name

    @pytest.mark.parametrize("name", ["/etc/passwd", "~/secret", "./x", "../../etc", "/etc/../etc/hosts"])
    def test_paths_outside_are_refused(self, name: str) -> None:
        with pytest.raises(TokenizerError, match="outside the folders"):
            permitted(name)

    def test_links_are_followed_before_they_are_judged(self) -> None:
        inside = workspace() / "innocent.json"
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.symlink_to("/etc/passwd")
        try:
            with pytest.raises(TokenizerError, match="outside the folders"):
                permitted(str(inside))
        finally:
            inside.unlink()

    def test_the_workspace_and_allowed_folders_are_open(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert permitted(str(workspace() / "t.json"))
        monkeypatch.setenv(VARIABLE, str(tmp_path))
        assert permitted(str(tmp_path / "tokenizer.json")) == str(tmp_path / "tokenizer.json")


class TestTexts:
    def test_a_short_text_is_in_the_url_and_a_long_one_in_the_workspace(self) -> None:
        for text in ("naïve 🙂", "東" * 5000):
            kept = texts.remember(text)
            assert sum(map(len, kept.values())) < 1600
            assert texts.recall(kept.get("text"), kept.get("text_id")) == text

    @pytest.mark.parametrize("key", ["../../etc/passwd", "a" * 32, "", "A" * 32])
    def test_an_unknown_key_recalls_nothing(self, key: str) -> None:
        assert texts.recall(None, key) is None

    def test_sizes_are_rounded_up(self) -> None:
        sizes = {300_000: "300 KB", 300_001: "300.1 KB", 98_000: "98 KB", 1_000_000: "1 MB", 5_010_000: "5.1 MB"}
        assert {count: _size(count) for count in sizes} == sizes

    def test_clipping_cuts_between_characters(self) -> None:
        clipped = texts.clip("東" * 100_000)
        assert set(clipped) == {"東"} and texts.LIMIT_BYTES - 3 < len(clipped.encode()) <= texts.LIMIT_BYTES


class TestStrip:
    def test_pages_cover_every_group_once_and_stay_small(self) -> None:
        found = align(sample("qwen"), sample("deepseek"), text="The quick brown fox.\n" * 3000)
        starts = strip.pages(found)
        assert len(starts) > 5 and starts[0] == 0 and starts[-1] == len(found.groups) and starts == sorted(set(starts))
        first = strip.payload(found, starts[0], starts[1], True, None)
        assert all(len(side) <= strip.WINDOW + 50 for side in first["tokens"])
        assert len(json.dumps(first)) < 2_000_000

    def test_a_token_that_is_part_of_a_character_is_shown_as_bytes(self) -> None:
        found = align(sample("qwen"), sample("mistral"), text="🧬")
        shown = strip.payload(found, 0, len(found.groups), True, None)["tokens"]
        assert "\\x9F" in "".join(token["text"] for side in shown for token in side)
        assert any(token["split"] for side in shown for token in side)

    def test_a_group_longer_than_any_view_is_cut(self) -> None:
        found = align(sample("mistral"), sample("minilm"), text="qxzjv" * 6000)
        assert len(found.groups) == 1 and len(found.source) > strip.LONGEST
        shown = strip.payload(found, 0, 1, True, None)
        assert len(shown["tokens"][0]) == strip.LONGEST and max(shown["groups"][0]["tokens"][0]) == strip.LONGEST - 1
        assert all(link[0] < strip.LONGEST for link in shown["links"]) and len(json.dumps(shown)) < 4_000_000

    def test_an_empty_alignment_has_an_empty_strip(self) -> None:
        found = align(sample("qwen"), sample("deepseek"), text="")
        assert strip.payload(found, 0, 0, True, None)["tokens"] == [[], []]


class TestFigures:
    @pytest.mark.parametrize("compare", ["bytes", "pieces"])
    def test_the_cost_matrix_is_drawn_in_any_script(self, compare: str) -> None:
        found = align(sample("qwen"), sample("mistral"), text="東京🧬 <b>", method="dtw", compare=compare)
        figure = figures.cost_heat_map(found)
        labels = [*figure.layout.xaxis.ticktext, *figure.layout.yaxis.ticktext]
        assert "".join(labels).encode("utf-8") and not any("<" in label for label in labels)
        assert figure.data[0].z.shape == (len(found.source), len(found.target))
        shown = figure.data[0].customdata
        assert shown.shape == figure.data[0].z.shape and not any("<" in label for label in shown.ravel())

    def test_bars_add_up_to_a_hundred_percent(self) -> None:
        mapping = map_vocabulary(sample("mistral"), sample("minilm"), kind="hard")
        figure = figures.outcome_bars({"hard": breakdown(mapping, sample("mistral"), "script")})
        sums = [sum(bar.x[n] for bar in figure.data) for n in range(len(figure.data[0].x))]
        assert sums == pytest.approx([100.0] * len(sums))


class TestShelf:
    def test_the_least_recently_used_goes_when_bytes_run_out(self) -> None:
        shelf = Shelf(entries=100, size=3_000_000)
        for n in range(5):
            assert len(shelf.get((n,), lambda: np.zeros(125_000))) == 125_000
            shelf.get((0,), lambda: np.zeros(1))
            assert shelf.held <= 3_000_000
        assert shelf.has((0,)) and shelf.has((4,)) and not shelf.has((1,))

    def test_entries_are_counted_too_and_a_failure_is_not_kept(self) -> None:
        shelf = Shelf(entries=2, size=1 << 30)
        with pytest.raises(ZeroDivisionError):
            shelf.get(("bad",), lambda: 1 // 0)
        for n in range(4):
            shelf.get((n,), lambda: "x")
        assert len(shelf) == 2 and not shelf.has(("bad",))

    def test_several_that_ask_at_once_get_one_result(self) -> None:
        shelf, calls = Shelf(entries=2, size=1 << 30), []

        def slow() -> object:
            calls.append(1)
            time.sleep(0.05)
            return object()

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: shelf.get(("one",), slow), range(8)))
        assert len(calls) == 1 and all(one is found[0] for one in found)

    def test_footprints_count_arrays_texts_and_tables_but_no_tokenizers(self) -> None:
        found = align(sample("qwen"), sample("deepseek"), text="The quick brown fox.\n" * 500)
        size = found.edges.nbytes + found.groups.nbytes + found.source.starts.nbytes
        assert size < footprint(found) < 40 * size
        words = [f"word number {n}" for n in range(20_000)]
        assert footprint(words) == pytest.approx(sum(map(sys.getsizeof, words)) + sys.getsizeof(words), rel=0.05)
        assert footprint(found.to_frame()) > 50_000


def test_a_tokenizer_whose_file_has_changed_is_loaded_again() -> None:
    folder = workspace() / "changing"
    folder.mkdir(exist_ok=True)
    path = str(tiny.train("byte-bpe", folder))
    assert results.tokenizer(path).kind == "byte-level BPE"
    tiny.train("wordpiece", folder)
    assert results.tokenizer(path).kind == "WordPiece"


def test_what_fails_is_computed_by_one_session_after_the_other_and_counted_once() -> None:
    shelf, running, most = Shelf(10, 1 << 20), [0], [0]

    def compute() -> NDArray[np.uint8]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.02)
        running[0] -= 1
        if len(started) < 3:
            started.append(None)
            raise ValueError
        return np.zeros(1000, np.uint8)

    def ask(_: int) -> None:
        with contextlib.suppress(ValueError):
            shelf.get(("it",), compute)

    started: list[None] = []
    with ThreadPoolExecutor(8) as sessions:
        list(sessions.map(ask, range(16)))
    assert most == [1] and shelf.held == 1000 and len(shelf) == 1
